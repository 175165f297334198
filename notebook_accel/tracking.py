"""Trackers, where users of Hugging Face Accelerate look for them."""

from notebook_accel.lazy import resolver

_HOMES = {
    "AimTracker": "core.trackers.services",
    "CSVTracker": "core.trackers.files",
    "ClearMLTracker": "core.trackers.services",
    "CometMLTracker": "core.trackers.services",
    "DVCLiveTracker": "core.trackers.files",
    "GeneralTracker": "core.trackers.base",
    "JSONLTracker": "core.trackers.files",
    "MLflowTracker": "core.trackers.services",
    "SwanLabTracker": "core.trackers.services",
    "TensorBoardTracker": "core.trackers.files",
    "TrackioTracker": "core.trackers.services",
    "WandBTracker": "core.trackers.services",
    "register_tracker_class": "core.trackers.registry",
}

__all__ = list(_HOMES)
__getattr__ = resolver(__name__, _HOMES, globals())


def __dir__() -> list[str]:
    """List the names, resolved or not."""
    return sorted({*globals(), *_HOMES})
