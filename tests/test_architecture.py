"""The promises that the source makes about itself: size, names, layers, exports, and what an import may load."""

from __future__ import annotations

import ast
import graphlib
import pkgutil
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import notebook_accel

ROOT = Path(__file__).parents[1]
MODULES = sorted([*ROOT.glob("notebook_accel/**/*.py"), *ROOT.glob("widgets/**/*.py")])
TREES = {path: ast.parse(path.read_text()) for path in MODULES}
KERNEL_SIDE = (
    *("__main__", "cli", "config", "environment", "errors", "hardware", "launch"),
    *("origins", "tracebacks", "traces", "wire", "world"),
)

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONG_SIGNATURES = {"notebook_launcher"}  # known by position to Accelerate's users


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS):
                yield f"{name_of(path)}:{node.lineno} {node.name}", node


def code_lines(path: Path) -> set[int]:
    """Numbers of the lines that hold more than comments and space."""
    silent = {getattr(tokenize, name) for name in ["COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"]}
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in silent]
    return {line for token in tokens[1:] for line in range(token.start[0], token.end[0] + 1)}


def docstring_lines(node: ast.AST) -> set[int]:
    first = node.body[0] if getattr(node, "body", None) else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return set()


def in_subprocess(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- size and names


def test_no_module_is_longer_than_400_lines():
    assert {name_of(path): n for path in MODULES if (n := len(path.read_text().splitlines())) > 400} == {}


def test_no_function_has_more_than_50_lines_of_code():  # below its signature
    lines = {name_of(path): code_lines(path) for path in MODULES}
    long = {}
    for where, node in functions():
        own = set(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)) - docstring_lines(node)
        if (count := len(own & lines[where.split(":")[0]])) > 50:
            long[where] = count
    assert long == {}


def test_no_function_takes_more_than_7_parameters_by_position():
    many = {}
    for where, node in functions():
        taken = [arg.arg for arg in node.args.posonlyargs + node.args.args if arg.arg not in ("self", "cls")]
        if len(taken) > 7 and node.name not in LONG_SIGNATURES:
            many[where] = taken
    assert many == {}


def test_no_module_has_a_name_that_says_nothing():
    known_elsewhere = ROOT / "notebook_accel" / "utils.py"  # a table of names, for people who come from Accelerate
    empty = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler"}
    assert [name_of(path) for path in MODULES if empty & set(path.stem.split("_")) and path != known_elsewhere] == []


def test_no_work_is_left_as_a_remark():
    words = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3]) + r")\b")
    files = [*MODULES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("*.md"), *ROOT.glob("notebooks/*")]
    found = [name_of(path) for path in files if path.is_file() and words.search(path.read_text())]
    assert found == []


# ---- the surface and the layers


def test_what_is_exported_exists_and_is_sorted():
    assert list(notebook_accel.__all__) == sorted(notebook_accel.__all__)
    assert len(set(notebook_accel.__all__)) == len(notebook_accel.__all__)
    assert set(notebook_accel.__all__) <= set(dir(notebook_accel))
    for name in notebook_accel.__all__:
        assert getattr(notebook_accel, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = notebook_accel.no_such_name


def test_import_loads_no_heavy_library_and_is_quick():
    code = (
        "import time, sys; start = time.process_time(); import notebook_accel; took = time.process_time() - start\n"
        "print(took, *sorted({'torch', 'numpy', 'ipywidgets', 'IPython', 'ipykernel'} & set(sys.modules)))"
    )
    runs = [in_subprocess(code).split() for _ in range(3)]
    assert [loaded for _, *loaded in runs] == [[]] * 3
    assert min(float(took) for took, *_ in runs) < 0.3


def kernel_side_modules() -> list[str]:
    names = []
    for part in KERNEL_SIDE:
        names.append(f"notebook_accel.{part}")
        folder = ROOT / "notebook_accel" / part
        if folder.is_dir():
            names += [f"notebook_accel.{part}.{info.name}" for info in pkgutil.iter_modules([str(folder)])]
    return names


def test_the_kernels_side_imports_where_torch_cannot_be_imported():
    code = (
        "import sys, importlib\n"
        "for name in ('torch', 'torch_xla', 'ipywidgets'): sys.modules[name] = None\n"
        f"for name in {kernel_side_modules()!r}: importlib.import_module(name)\n"
        "print('imported')"
    )
    assert in_subprocess(code) == "imported"


def test_imports_form_no_cycle():
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("notebook_accel", exclude_type_checking_imports=True, cache_dir=None)
    edges = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(edges).prepare()  # raises CycleError, which names the cycle


def test_the_library_imports_widgets_only_by_name():
    static = re.compile(
        r"^\s*(?:(?:from|import) +(?:notebook_accel\.)?widgets|from notebook_accel import .*\bwidgets)\b", re.MULTILINE
    )
    assert [name_of(path) for path in ROOT.glob("notebook_accel/**/*.py") if static.search(path.read_text())] == []


# ---- one place for each


def test_backends_are_told_apart_by_name_only_in_their_registry():
    names = {"nccl", "gloo", "xla", "xccl"}
    found = []
    for path, tree in TREES.items():
        if name_of(path) == "notebook_accel/backends/registry.py":
            continue
        for node in ast.walk(tree):
            parts = ast.walk(node) if isinstance(node, (ast.Compare, ast.MatchValue)) else ()
            found += [
                f"{name_of(path)}:{part.lineno}"
                for part in parts
                if isinstance(part, ast.Constant) and part.value in names
            ]
    assert found == []


def test_the_environment_is_touched_in_one_module():
    touching = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    found = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            names = {node.attr} if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "os" else set()
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                names = {alias.name for alias in node.names}
            if names & touching and name_of(path) != "notebook_accel/environment.py":
                found.append(f"{name_of(path)}:{node.lineno}")
    assert found == []


def test_every_module_says_what_it_is_for():
    assert [name_of(path) for path, tree in TREES.items() if tree.body and not ast.get_docstring(tree)] == []


# ---- the rest of the tree


def tracked_texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        try:
            yield name, (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue


def test_no_text_names_a_machine_or_a_registry():
    # Put together from pieces, so that this file does not find itself.
    machines = ["/" + folder + "/" for folder in ("work", "root", "home", "Users", "opt")]
    registries = ["pypi" + ".org", "python" + "hosted.org", "download." + "pytorch.org", "registry." + "npmjs"]
    anywhere = "|".join(map(re.escape, [*registries, "file" + "://"]))
    places = re.compile(r"(?<![\w.~}])(" + "|".join(map(re.escape, machines)) + ")|" + anywhere)
    assert [f"{name}: {hit.group()}" for name, text in tracked_texts() if (hit := places.search(text))] == []


def test_the_changelogs_newest_version_is_the_packages():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    newest = re.search(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version
    assert newest
    assert newest.group(1) == version.group(1)


def test_every_folder_of_code_is_packaged():
    listed = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert listed
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("notebook_accel/**/__init__.py")}
    assert set(re.findall(r'"(.+?)"', listed.group(1))) == folders | {"notebook_accel.widgets"}


def test_texts_keep_to_their_length():
    limits = {"README.md": 280, "CONTRIBUTING.md": 100}
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in limits}
    assert {name: length for name, length in lengths.items() if length > limits[name]} == {}
