"""``display`` in a rank: what it would show is sent to the notebook, which shows it.

IPython decides whether there is a notebook by its shell, which ranks do not have. So its display functions are
replaced here, wherever they are imported from, and ``display`` is a builtin as it is in a notebook.
"""

from __future__ import annotations

import base64
import builtins
import functools
import json
import sys
import uuid
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from notebook_accel.wire.events import Cleared, Displayed
from notebook_accel.worker.imports import Action
from notebook_accel.worker.relay import Relay

_MODULES = ("IPython.core.display_functions", "IPython.core.display", "IPython.display")  # of 7, 8 and 9
_WIDGET = "application/vnd.jupyter.widget-view+json"  # its model lives in the rank: the notebook cannot show it


class Displays:
    """Stands in for IPython's display functions.

    Args:
        relay: the way to the notebook.
        rank: which rank this is.
    """

    def __init__(self, relay: Relay, rank: int) -> None:
        self._relay = relay
        self._rank = rank

    def actions(self) -> dict[str, Action]:
        """Give what to do with IPython's modules when they have been imported."""
        builtins.display = self.display  # type: ignore[attr-defined]  # as IPython does
        _replace_publisher(self)
        return dict.fromkeys(_MODULES, self._take_over)

    def _take_over(self, module: ModuleType) -> None:
        for name in ("display", "publish_display_data", "clear_output"):
            if name in vars(module):
                setattr(module, name, getattr(self, name))

    def display(
        self,
        *objects: Any,
        display_id: str | bool | None = None,
        raw: bool = False,
        metadata: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Show objects in the notebook; takes what ``IPython.display.display`` takes.

        Args:
            objects: what to show.
            display_id: a name by which it can be updated; True makes one up.
            raw: the objects are already dicts from MIME type to data.
            metadata: about the data.
            options: ``include``, ``exclude``, ``transient``, ``clear``, ``update``.
        """
        if options.pop("clear", False):
            self.clear_output(wait=True)
        transient = dict(options.pop("transient", None) or {})
        named = uuid.uuid4().hex if display_id is True else display_id
        if named:
            transient["display_id"] = named
        update = options.pop("update", False)
        for shown in objects:
            if raw:
                data, about = shown, metadata or {}
            else:
                data, about = _forms(shown, options.get("include"), options.get("exclude"))
                about = {**about, **(metadata or {})}
            if data:  # otherwise the object has shown itself
                self.publish_display_data(data, about, transient=transient, update=update)
        if not named:
            return None
        return sys.modules[_handle_module()].DisplayHandle(named)

    def publish_display_data(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *_source: Any,
        transient: Mapping[str, Any] | None = None,
        update: bool = False,
        **_options: Any,
    ) -> None:
        """Send forms of something to the notebook."""
        if not self._relay.is_open:
            print(data.get("text/plain", ""))  # noqa: T201 - all that a fork of the rank can do
            return
        forms = _plain({kind: form for kind, form in data.items() if kind != _WIDGET})
        name = str((transient or {}).get("display_id", ""))
        self._relay.send_after_output(Displayed(self._rank, forms, _plain(metadata or {}), name, update))

    def clear_output(self, wait: bool = False) -> None:  # noqa: ARG002 - IPython's signature
        """Let the next display take the place of what this rank has displayed."""
        if self._relay.is_open:
            self._relay.send_after_output(Cleared(self._rank))

    def show_open_figures(self) -> None:
        """Show the figures that the function has left open, as a notebook does at the end of a cell."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None and pyplot.get_fignums() and "inline" in pyplot.get_backend():
            pyplot.show()


def _replace_publisher(displays: Displays) -> None:
    """In a fork of the kernel: its shell would publish on the kernel's sockets."""
    shell = sys.modules.get("IPython.core.interactiveshell")
    if shell is not None and shell.InteractiveShell.initialized():
        publisher = shell.InteractiveShell.instance().display_pub
        publisher.publish = displays.publish_display_data
        publisher.clear_output = displays.clear_output


def _handle_module() -> str:
    """Name the module that has IPython's handles."""
    import IPython.display  # noqa: PLC0415 - it takes a moment, and few functions name what they display

    return IPython.display.DisplayHandle.__module__


def _plain(forms: Mapping[str, Any]) -> dict[str, Any]:
    """Leave what the notebook can load whatever classes it knows: what a front end would get."""
    loaded: dict[str, Any] = json.loads(json.dumps(forms, default=_as_text))
    return loaded


def _as_text(form: object) -> str:
    return base64.b64encode(form).decode() if isinstance(form, bytes) else str(form)


def _forms(shown: Any, include: Any, exclude: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    data, metadata = _formatter().format(shown, include=include, exclude=exclude)
    return data, metadata


@functools.lru_cache(maxsize=1)
def _formatter() -> Any:
    from IPython.core.formatters import DisplayFormatter  # noqa: PLC0415 - it takes a moment; most functions show none
    from IPython.core.pylabtools import print_figure  # noqa: PLC0415

    formatter = DisplayFormatter()
    figures = functools.partial(print_figure, fmt="png")
    formatter.formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure", figures)
    return formatter
