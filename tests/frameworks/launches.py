"""Launch cells that train with other frameworks, and the problem that they all train on."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pytest

from tests.integration.kernels import Notebook

PRELOADING = "notebook_accel: the helper process is started anew: to preload more"

# Each rank begins with other weights, so that ranks agree in the end only when rank 0's were given to all.
# Each step sees all the data, so that it does not matter in which order a framework gives it to the ranks.
PROBLEM = """
import os
import torch
from torch.utils.data import DataLoader, Dataset

class Line(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.tensor([2.0 * index])

def make_model():
    model = torch.nn.Linear(1, 1)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, float(os.environ["RANK"]))
    return model

def make_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.001)

def make_loader():
    return DataLoader(Line(), batch_size=8, num_workers=2)
"""


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip where a package is missing. It is not imported: importing some changes this process's environment."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def weight_of_one_process() -> float:
    """What one process, with batches as large as those of both ranks together, makes of the problem in two epochs."""
    weight = bias = 0.0
    for _ in range(2):
        errors = [weight * x + bias - 2 * x for x in range(16)]
        slope = fmean(2 * error * x for x, error in enumerate(errors))
        weight, bias = weight - 0.001 * slope, bias - 0.001 * fmean(2 * error for error in errors)
    return weight


@dataclass
class Launches:
    """Launches in one kernel."""

    notebook: Notebook

    def three(self, cell: str, *, function: str = "train", more: str = "") -> list[list[Any]]:
        """Run a cell, launch its function three times in a row on two ranks, give each run's values."""
        self.notebook.check(cell)
        launch = f"list(notebook_launcher({function}, num_processes=2{more}))"
        text = self.notebook.check(f"runs = []\nfor _ in range(3):\n    runs.append({launch})")
        said = {line for line in text.splitlines() if line.startswith("notebook_accel: ")}
        notices = {line for line in said if not line.startswith("notebook_accel: 2 CPU processes, gloo")}
        assert notices <= {PRELOADING}, "such as that the end of a rank hung"
        return self.values("runs")

    def values(self, expression: str) -> Any:
        """What an expression of literals is in the kernel."""
        return ast.literal_eval(self.notebook.check(f"print(repr({expression}))"))
