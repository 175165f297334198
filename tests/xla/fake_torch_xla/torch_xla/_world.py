"""FAKE: what the compiled part of torch_xla knows of this process."""

import os
from datetime import timedelta

import torch.distributed as dist

_state = {"started": False, "group": None}


def _xla_runtime_is_initialized():
    return _state["started"]


def _prepare_to_exit():
    pass


def start():
    _state["started"] = True


def local_rank():
    return int(os.environ.get("PJRT_LOCAL_PROCESS_RANK", "0"))


def size():
    return int(os.environ.get("PJRT_LOCAL_PROCESS_COUNT", "1"))


def ordinal():
    return size() - 1 - local_rank()


def group():
    if _state["group"] is None:
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None, is_master=False)
        store = dist.PrefixStore("fake_xla", store)
        _state["group"] = dist.ProcessGroupGloo(store, ordinal(), size(), timedelta(seconds=60))
    return _state["group"]
