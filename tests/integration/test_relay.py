"""Bars, displays, figures and metrics of the ranks appear in the cell."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.kernels import Notebook
from tests.integration.test_launch import literal

IMPORTS = """
from IPython.display import HTML, Markdown, clear_output, display, update_display
from tqdm.auto import tqdm, trange
import os
def rank(): return int(os.environ["RANK"])
"""


def bars_of(shown: list[dict[str, Any]]) -> list[str]:
    """The texts of all states of the bars."""
    return [entry["text/plain"] for entry in shown if "<progress" in entry.get("text/html", "")]


def test_bars_of_all_kinds(notebook: Notebook) -> None:
    reply = notebook.run(
        IMPORTS + "from tqdm import tqdm as plain\n"
        "from tqdm.notebook import tqdm as of_notebooks\n"
        "import io\n"
        "def f():\n"
        "    for _ in trange(2, desc='outer'):\n"
        "        for _ in tqdm(range(5), desc='inner', leave=False): pass\n"
        "    with plain(desc='endless', unit='B') as bar: bar.update(7)\n"
        "    for _ in of_notebooks(range(4), desc='notebook'): pass\n"
        "    file = io.StringIO()\n"
        "    for _ in tqdm(range(5), file=file, desc='elsewhere'): pass\n"
        "    tqdm.write('written')\n"
        "    return file.getvalue().count('elsewhere') > 0\n"
        "r = notebook_launcher(f, num_processes=2)\n"
        "print(list(r))"
    )
    assert reply.error_name is None, reply.error_text
    last = bars_of(reply.bundles)[-1].splitlines()
    assert [line.split(":")[0] for line in last] == ["outer", "endless", "notebook"], last
    assert "7B [" in last[1]
    assert "[rank 1] written\n" in reply.text
    assert reply.text.endswith("[True, True]\n")
    assert "elsewhere" not in str(reply.bundles)


def test_a_bar_that_only_one_rank_has_is_labelled(notebook: Notebook) -> None:
    reply = notebook.run(
        IMPORTS + "def f():\n"
        "    if rank() == 1:\n"
        "        for _ in tqdm(range(3), desc='mine'): pass\n"
        "notebook_launcher(f, num_processes=2)"
    )
    assert bars_of(reply.bundles)[-1].startswith("[rank 1] mine: 100%")


def test_what_is_displayed_stays_among_what_is_printed(notebook: Notebook) -> None:
    order: list[str] = []
    code = (
        IMPORTS + "def f():\n"
        "    for i in range(20):\n"
        "        print('text', i)\n"
        "        display({'text/plain': f'display {i}'}, raw=True)\n"
        "notebook_launcher(f, num_processes=1)"
    )
    reply = notebook.run(code)
    for kind, text in reply.order:
        order += text.split("\n") if kind == "stream" else [text]
    told = [line for line in order if line.startswith(("text", "display"))]
    assert told == [line for i in range(20) for line in (f"text {i}", f"display {i}")]


def test_displays_of_other_ranks_are_labelled_and_updated_by_name(notebook: Notebook) -> None:
    reply = notebook.run(
        IMPORTS + "def f():\n"
        "    if rank() == 1:\n"
        "        handle = display(Markdown('*one*'), display_id=True)\n"
        "        handle.update(Markdown('*two*'))\n"
        "        display(1, display_id='name'); update_display(2, display_id='name')\n"
        "notebook_launcher(f, num_processes=2)"
    )
    assert "[rank 1] \n" in reply.text
    assert [entry.get("text/markdown") or entry["text/plain"] for entry in reply.bundles] == [
        "*one*",
        "*two*",
        "1",
        "2",
    ]
    assert reply.updates == [False, True, False, True]


def test_a_plot_that_is_drawn_anew_takes_the_place_of_the_last(notebook: Notebook) -> None:
    pytest.importorskip("matplotlib")
    reply = notebook.run(
        IMPORTS + "import matplotlib.pyplot as plt\n"
        "def f():\n"
        "    for epoch in range(3):\n"
        "        clear_output(wait=True)\n"
        "        plt.plot([0, epoch]); plt.show()\n"
        "    plt.figure(); plt.plot([1, 2])\n"
        "notebook_launcher(f, num_processes=1)"
    )
    assert reply.error_name is None, reply.error_text
    assert ["image/png" in entry for entry in reply.bundles] == [True] * 4
    assert reply.updates == [False, True, True, False], "the figure that was left open is shown at the end"


def test_objects_show_themselves(notebook: Notebook) -> None:
    pytest.importorskip("pandas")
    reply = notebook.run(
        IMPORTS + "import pandas as pd, ipywidgets\n"
        "class Own:\n"
        "    def _repr_html_(self): return '<i>own</i>'\n"
        "class Itself:\n"
        "    def _ipython_display_(self): display('itself')\n"
        "def f():\n"
        "    display(pd.DataFrame({'a': [1, 2]}), Own(), Itself())\n"
        "    display(ipywidgets.IntSlider())\n"
        "notebook_launcher(f, num_processes=1)"
    )
    assert reply.error_name is None, reply.error_text
    assert "<table" in reply.bundles[0]["text/html"]
    assert reply.bundles[1]["text/html"] == "<i>own</i>"
    assert reply.bundles[2]["text/plain"] == "'itself'"
    assert "IntSlider" in reply.bundles[3]["text/plain"]
    assert list(reply.bundles[3]) == ["text/plain"], "a widget's model lives in the rank"


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_every_way_to_start_brings_bars_and_displays(notebook: Notebook, method: str) -> None:
    reply = notebook.run(
        IMPORTS + "def f():\n"
        "    display(HTML('<b>bold</b>'))\n"
        "    for _ in tqdm(range(3), desc='train'): pass\n"
        f"notebook_launcher(f, num_processes=1, devices='cpu', start_method={method!r})"
    )
    assert reply.error_name is None, reply.error_text
    assert any(entry.get("text/html") == "<b>bold</b>" for entry in reply.bundles)
    assert bars_of(reply.bundles)[-1].startswith("train: 100%")
    assert "train" not in reply.text


def test_metrics_come_back(notebook: Notebook) -> None:
    text = notebook.check(
        "def f():\n"
        "    import torch\n"
        "    accelerator = Accelerator()\n"
        "    for step in range(2):\n"
        "        accelerator.log({'loss': torch.tensor(0.5) * (accelerator.process_index + 1), 'lr': 0.1}, step=step)\n"
        "for method in ('forkserver', 'inline'):\n"
        "    r = notebook_launcher(f, num_processes=1 if method == 'inline' else 2, start_method=method)\n"
        "    print([list(r.metrics), r.metrics.of_rank(1)])"
    )
    rows = [[{"step": step, "loss": 0.5 * (rank + 1), "lr": 0.1} for step in range(2)] for rank in range(2)]
    results = [literal(line) for line in text.splitlines() if line.startswith("[[")]
    assert results == [rows, [rows[0], []]]


@pytest.mark.parametrize(("logs", "shown"), [("all", [0, 1]), ("rank0", [0]), ("none", [])])
def test_whose_output_is_shown(notebook: Notebook, logs: str, shown: list[int]) -> None:
    reply = notebook.run(
        IMPORTS + "def f():\n"
        "    print('says', rank())\n"
        "    display(f'displays {rank()}')\n"
        "    for _ in tqdm(range(3), desc=f'draws {rank()}'): pass\n"
        f"r = notebook_launcher(f, num_processes=2, logs={logs!r})\n"
        "assert r.logs(0) == 'says 0\\n' and r.logs(1) == 'says 1\\n'"
    )
    assert reply.error_name is None, reply.error_text
    for rank in (0, 1):
        for words in ("says", "displays", "draws"):
            seen = f"{words} {rank}" in reply.text + str(reply.bundles)
            assert seen == (rank in shown), (words, rank)


def test_50_mb_from_4_ranks_do_not_flood_the_notebook(notebook: Notebook) -> None:
    reply = notebook.run(
        "def flood():\n"
        "    line = 'x' * 124\n"
        "    for i in range(100_000): print(line)\n"
        "    print('the end')\n"
        "r = notebook_launcher(flood, num_processes=4, devices='cpu')\n"
        "sizes = [len(r.logs(k)) for k in range(4)]"
    )
    assert reply.error_name is None, reply.error_text
    assert literal(notebook.check("print(sizes)")) == [125 * 100_000 + 8] * 4
    assert len(reply.text) < 2_000_000
    assert "characters folded; .logs(rank) has them" in reply.text
    assert "the end\n" in reply.text[-1000:]
