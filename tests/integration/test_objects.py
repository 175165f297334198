"""What travels to the ranks and back."""

from __future__ import annotations

import pytest

from tests.integration.kernels import Notebook
from tests.integration.test_launch import literal


def test_instances_of_a_cells_classes_come_back_as_the_kernels_own(notebook: Notebook) -> None:
    text = notebook.check(
        "from dataclasses import dataclass\n"
        "factor = 2\n"
        "@dataclass\n"
        "class Metrics:\n"
        "    loss: float\n"
        "    def scaled(self): return self.loss * factor\n"
        "class Child(Metrics): pass\n"
        "def train(given):\n"
        "    return Metrics(given.loss + 1), Child(3.0), Metrics\n"
        "r = notebook_launcher(train, args=(Metrics(1.0),), num_processes=2)\n"
        "metrics, child, cls = r[1]\n"
        "factor = 10  # methods of the kernel's class still see the notebook\n"
        "print((type(metrics) is Metrics, type(child) is Child, cls is Metrics, metrics.scaled(),\n"
        "       Metrics(1.0).scaled(), metrics == Metrics(2.0)))"
    )
    assert literal(text) == (True, True, True, 20.0, 10.0, True)


def test_a_class_made_in_the_rank_travels_by_value(notebook: Notebook) -> None:
    text = notebook.check(
        "def train():\n"
        "    from collections import namedtuple\n"
        "    return namedtuple('Point', 'x y')(1, 2)\n"
        "r = notebook_launcher(train, num_processes=2)\n"
        "print((r.value.x, r[1].y, type(r.value).__name__))"
    )
    assert literal(text) == (1, 2, "Point")


def test_closures_globals_lambdas_and_recursion(notebook: Notebook) -> None:
    text = notebook.check(
        "table = {'a': 1}\n"
        "def helper(n): return 1 if n == 0 else n * helper(n - 1)\n"
        "def make(k):\n"
        "    def inner(x, *, y=0): return helper(x) + k + y + table['a']\n"
        "    return inner\n"
        "print(list(notebook_launcher(make(100), args=(4,), kwargs={'y': 1000}, num_processes=2)))"
    )
    assert literal(text) == [1125, 1125]


def test_what_pickle_would_send_as_a_name_of_the_notebook(notebook: Notebook) -> None:
    text = notebook.check(
        "import functools, typing\n"
        "UserId = typing.NewType('UserId', int)\n"
        "@functools.lru_cache\n"
        "def load(n): return n if n < 2 else load(n - 1) + load(n - 2)\n"
        "class Data:\n"
        "    @functools.cached_property\n"
        "    def size(self): return load(10)\n"
        "    @functools.cache\n"
        "    def row(self, i): return load(i) + self.size\n"
        "class Mark:\n"
        "    def __reduce__(self): return 'MISSING'\n"
        "MISSING = Mark()\n"
        "def train(data, kind): return load(50), data.row(1), UserId(1), kind is UserId, load.cache_info().currsize\n"
        "values = list(notebook_launcher(train, args=(Data(), UserId), num_processes=2))\n"
        "try:\n"
        "    notebook_launcher(lambda: MISSING, num_processes=1)\n"
        "except TypeError as error:\n"
        "    print(values)\n"
        "    print(error.what)"
    )
    *_, values, refusal = text.splitlines()
    assert literal(values) == [(12586269025, 56, 1, True, 51)] * 2
    assert refusal.endswith(
        "<lambda> -> MISSING (of type Mark, which is pickled as the bare name MISSING of this notebook)"
    )


@pytest.mark.slow
def test_data_loader_workers_of_an_inline_run_see_the_notebook(notebook: Notebook) -> None:
    text = notebook.check(
        "from multiprocessing.reduction import ForkingPickler\n"
        "class Squares:\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, i): return i * i\n"
        "def load():\n"
        "    from torch.utils.data import DataLoader\n"
        "    loader = DataLoader(Squares(), batch_size=2, num_workers=1, multiprocessing_context='spawn')\n"
        "    return [batch.tolist() for batch in loader]\n"
        "before = dict(vars(ForkingPickler))\n"
        "r = notebook_launcher(load, num_processes=1, start_method='inline', devices='cpu')\n"
        "print((r.value, dict(vars(ForkingPickler)) == before))"
    )
    assert literal(text) == ([[0, 1], [4, 9]], True)


def test_a_value_that_cannot_be_sent_is_named_and_the_others_are_kept(notebook: Notebook) -> None:
    text = notebook.check(
        "def train():\n"
        "    import os\n"
        "    return (x for x in ()) if os.environ['RANK'] == '1' else {'accuracy': 0.9}\n"
        "r = notebook_launcher(train, num_processes=2)\n"
        "try:\n"
        "    r[1]\n"
        "except ResultUnavailable as error:\n"
        "    print((r.value, 'rank 1' in str(error), 'generator' in str(error)))\n"
    )
    assert "rank 1" in text, "the loss is said in the cell, not only when it is read"
    assert literal(text) == ({"accuracy": 0.9}, True, True)


def test_what_cannot_travel_is_named_before_anything_starts(notebook: Notebook) -> None:
    reply = notebook.run(
        "import threading\n"
        "guard = threading.Lock()\n"
        "def train():\n"
        "    with guard: return 1\n"
        "notebook_launcher(train, num_processes=2)"
    )
    assert reply.error_name == "PayloadError"
    assert "train -> guard (a thread lock)" in reply.error_text


def test_data_loader_workers_see_the_cells_classes(notebook: Notebook) -> None:
    text = notebook.check(
        "import torch\n"
        "from collections import namedtuple\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "Batch = namedtuple('Batch', 'x y')\n"
        "class Squares(Dataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, i): return i * i\n"
        "def collate(items): return Batch(torch.tensor(items), len(items))\n"
        "def train():\n"
        "    loader = DataLoader(Squares(), batch_size=4, num_workers=2, collate_fn=collate)\n"
        "    return [(b.x.tolist(), b.y, type(b).__name__) for b in loader]\n"
        "print(list(notebook_launcher(train, num_processes=2)))"
    )
    assert literal(text) == [[([0, 1, 4, 9], 4, "Batch"), ([16, 25, 36, 49], 4, "Batch")]] * 2


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_prepared_models_come_back_unwrapped(notebook: Notebook, precision: str) -> None:
    text = notebook.check(
        "def train():\n"
        "    import torch\n"
        "    accelerator = Accelerator()\n"
        "    model = accelerator.prepare(torch.nn.Linear(2, 1))\n"
        "    accelerator.backward(model(torch.ones(1, 2)).sum())\n"
        "    return model\n"
        f"r = notebook_launcher(train, num_processes=2, mixed_precision={precision!r})\n"
        "same = (r[0].weight == r[1].weight).all().item()\n"
        "print((type(r[1]).__name__, same, r[0].weight.requires_grad, 'forward' in r[0].__dict__))"
    )
    assert literal(text) == ("Linear", True, True, False)


def test_reading_plain_results_does_not_import_torch(fresh_notebook: Notebook) -> None:
    text = fresh_notebook.check(
        "from notebook_accel import notebook_launcher\n"
        "def train():\n"
        "    import torch\n"
        "    return {'accuracy': 0.5}, torch.ones(2) if 0 else None\n"
        "r = notebook_launcher(train, num_processes=2)\n"
        "repr(r), r._repr_html_()\n"
        "import sys\n"
        "print((r.value[0]['accuracy'], 'torch' in sys.modules))"
    )
    assert literal(text) == (0.5, False)


def test_the_result_shows_itself(notebook: Notebook) -> None:
    reply = notebook.run("notebook_launcher(lambda: {'accuracy': 0.97}, num_processes=2)")
    assert reply.shown
    assert "rank 1: {'accuracy': 0.97}" in reply.shown[0]
    page = notebook.check("print(notebook_launcher(lambda: '<b>', num_processes=1)._repr_html_())")
    assert "&lt;b&gt;" in page
