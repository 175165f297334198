"""Interrupts wherever Python looks for them: where a function begins, and where one written in C has returned."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType


def is_interrupted(call: Callable[[], object], place: int) -> bool:
    """Call it, with an interrupt raised at one of these places; give whether there are so many.

    Args:
        call: what is interrupted.
        place: which of them, counted from 0 in the order in which it comes to them.
    """
    passed = -1

    def profile(_frame: FrameType, event: str, _: object) -> None:
        nonlocal passed
        passed += event in {"call", "c_return"}
        if passed == place:
            sys.setprofile(None)
            raise KeyboardInterrupt

    usual = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(usual)
    return False


def returns_soon(call: Callable[[], object], patience_seconds: float = 5.0) -> bool:
    """Call it in another thread, and give whether it returned; one that does not is left alone."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(patience_seconds)
    return not thread.is_alive()
