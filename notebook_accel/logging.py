"""``get_logger``, where users of Hugging Face Accelerate look for it."""

from notebook_accel.lazy import resolver

_HOMES = {
    "RankLogger": "core.logs",
    "get_logger": "core.logs",
}

__all__ = list(_HOMES)
__getattr__ = resolver(__name__, _HOMES, globals())


def __dir__() -> list[str]:
    """List the names, resolved or not."""
    return sorted({*globals(), *_HOMES})
