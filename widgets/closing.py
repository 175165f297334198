"""Taking widgets out of the kernel."""

from __future__ import annotations

from typing import Any


def close_all(widget: Any) -> None:
    """Close a widget with all that it holds: its children, layouts and styles are widgets too.

    Args:
        widget: of ipywidgets.
    """
    for child in getattr(widget, "children", ()):
        close_all(child)
    for part in ("layout", "style"):
        held = getattr(widget, part, None)
        if held is not None and hasattr(held, "close"):
            held.close()
    widget.close()
