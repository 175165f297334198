"""Every example in a docstring and in the README is run."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(ROOT.glob("notebook_accel/**/*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    pytest.importorskip("torch")
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert tried
    assert not failed
    runtime = sys.modules.get("notebook_accel.core.runtime")
    if runtime is not None and runtime.active() is not None:
        runtime.active().finish()  # as at the end of a script


def test_the_readmes_example_gives_what_the_readme_shows(tmp_path):
    pytest.importorskip("torch")
    readme = (ROOT / "README.md").read_text()
    code, printed, shown = re.search(
        r"```python\n(.*?)```\n\n```\n(.*?)```\n\n```python\n(.*?)```", readme, re.DOTALL
    ).groups()
    script = tmp_path / "example.py"
    script.write_text(f"{code}\nprint(result)\nprint(result.value)\nprint(result.logs(1), end='')\n")
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    seconds = re.compile(r"[\d.]+ s\)")
    expected = printed + re.sub(r"^>>> .*\n", "", shown, flags=re.MULTILINE)
    # Lines of different ranks come in the order in which they were printed.
    assert sorted(seconds.sub("", done.stdout).splitlines()) == sorted(seconds.sub("", expected).splitlines())


def test_the_readmes_other_examples_run(tmp_path):
    pytest.importorskip("torch")
    readme = (ROOT / "README.md").read_text()
    blocks = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if ">>>" not in block]
    assert len(blocks) == 5
    script = tmp_path / "examples.py"
    checks = "assert len(results) == 3 and not results.failures\nassert run.state == 'succeeded'\n"
    script.write_text("\n".join(blocks) + checks)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}  # what is saved lies in the test's folder
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "checkpoints" / "checkpoint_2" / "manifest.json").exists()
