"""Interrupts wherever Python looks for them: where a function begins, and where one written in C has returned."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType


def is_interrupted(
    call: Callable[[], object], place: int, error: Callable[[], BaseException] = KeyboardInterrupt
) -> bool:
    """Call it, with an interrupt raised at one of these places; give whether it came to that.

    Args:
        call: what is interrupted.
        place: which of them, counted from 0 in the order in which it comes to them.
        error: makes what is raised there.
    """
    passed, raised = -1, error()

    def profile(_frame: FrameType, event: str, _: object) -> None:
        nonlocal passed
        passed += event in {"call", "c_return"}
        if passed == place:
            sys.setprofile(None)
            raise raised

    usual = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    except BaseException as caught:
        if caught is not raised:
            raise
    finally:
        sys.setprofile(usual)
    return passed == place


def returns_soon(call: Callable[[], object], patience_seconds: float = 5.0) -> bool:
    """Call it in another thread, and give whether it returned; one that does not is left alone."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(patience_seconds)
    return not thread.is_alive()
