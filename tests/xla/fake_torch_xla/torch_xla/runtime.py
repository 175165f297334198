"""FAKE."""

import os

from torch_xla import _world


def world_size():
    return _world.size()


def global_ordinal():
    return _world.ordinal()


def addressable_device_count():
    return int(os.environ.get("FAKE_XLA_DEVICES", "1"))


def initialize_cache(path, readonly=False):
    os.environ["XLA_PERSISTENT_CACHE_PATH"] = path
