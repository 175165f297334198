"""Looking inside of what ``torch.compile`` made."""

from __future__ import annotations

import sys

from torch import nn


def uncompiled(model: nn.Module) -> nn.Module:
    """Give the model inside a compiled one; any other comes back as it is."""
    dynamo = sys.modules.get("torch._dynamo")  # slow to import, and only a loaded one has compiled anything
    if dynamo is None or not isinstance(model, dynamo.OptimizedModule):
        return model
    inner = model.get_submodule("_orig_mod")
    assert isinstance(inner, nn.Module)
    return inner
