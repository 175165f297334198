"""Views of the run, where users of Hugging Face Accelerate look for them."""

from notebook_accel.lazy import resolver

_HOMES = {
    "AcceleratorState": "core.states",
    "DistributedType": "world",
    "GradientState": "core.states",
    "PartialState": "core.states",
}

__all__ = list(_HOMES)
__getattr__ = resolver(__name__, _HOMES, globals())


def __dir__() -> list[str]:
    """List the names, resolved or not."""
    return sorted({*globals(), *_HOMES})
