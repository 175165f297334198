from __future__ import annotations

import pytest
import torch

from notebook_accel.backends.base import Backend, check_op, device_of
from notebook_accel.errors import ConfigError
from notebook_accel.world import World


def test_backend_cannot_be_built_without_its_verbs():
    with pytest.raises(TypeError, match="abstract"):
        Backend(World())  # type: ignore[abstract]


def test_device_is_of_the_worlds_kind():
    assert device_of(World(local_rank=3, local_world_size=4)) == torch.device("cpu")
    assert device_of(World(device_kind="mps")) == torch.device("mps")


def test_missing_gpu_is_named():
    beyond = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"rank 0 needs cuda:{beyond}.*{beyond} CUDA devices"):
        device_of(World(device_kind="cuda", local_rank=beyond))


def test_unknown_reduction_lists_the_known():
    with pytest.raises(ConfigError, match=r"(?s)'min'.*'sum', 'mean', 'max'"):
        check_op("min")
