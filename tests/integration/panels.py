"""Play the front end of a run panel: know the widgets that a kernel sends, press their buttons, count what comes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from tests.integration.kernels import CELL_SECONDS, Notebook

WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass
class Page:
    """What a page would show."""

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    displays: dict[str, dict[str, Any]] = field(default_factory=dict)  # by their name, as they are now
    text: str = ""
    error_name: str | None = None
    error_text: str = ""
    widget_bytes: int = 0
    updates: list[float] = field(default_factory=list)

    def button(self, label: str) -> str | None:
        """The comm of a button that can be pressed."""
        for comm, state in self.models.items():
            is_button = state.get("_model_name") == "ButtonModel"
            if is_button and label in state.get("description", "") and not state.get("disabled"):
                return comm
        return None

    @property
    def drawn(self) -> str:
        """All HTML in widgets."""
        values = [state.get("value", "") for state in self.models.values() if state.get("_model_name") == "HTMLModel"]
        return "\n".join(values)

    @property
    def live(self) -> bool:
        """Whether a panel's widget is on the page."""
        return any(WIDGET in data for data in self.displays.values())

    @property
    def still(self) -> str:
        """All HTML that is displayed and no widget."""
        return "\n".join(data.get("text/html", "") for data in self.displays.values())


class PanelNotebook(Notebook):
    """A kernel whose messages make up a page."""

    def __init__(self, folder: str, variables: dict[str, str] | None = None) -> None:
        self.page = Page()
        self.variables = {"NOTEBOOK_ACCEL_UI": "widgets", **(variables or {})}
        super().__init__(folder, self.variables)

    def begin(self, code: str) -> str:
        """Run a cell without waiting for it."""
        self.page.error_name, self.page.error_text = None, ""
        return self.client.execute(code)

    def press(self, label: str) -> None:
        """Press a button, as a page does that knows nothing of subshells."""
        comm = self.page.button(label)
        assert comm is not None, f"no button {label!r}"
        data = {"method": "custom", "content": {"event": "click"}}
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self.client.shell_channel.send(message)

    def until(self, condition: Any, what: str, seconds: float = CELL_SECONDS) -> None:
        """Take messages in until ``condition(page)`` holds."""
        deadline = time.monotonic() + seconds
        while not condition(self.page):
            if time.monotonic() > deadline:
                raise AssertionError(f"not in {seconds} s: {what}\n{self.page.text}\n{self.page.error_text}")
            self._take_one()

    def to_end(self, request: str) -> None:
        """Take messages in until a cell has ended."""
        deadline = time.monotonic() + CELL_SECONDS
        while time.monotonic() < deadline:
            message = self._take_one()
            if message is None or message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
        raise AssertionError(f"the cell did not end:\n{self.page.text}")

    def cell(self, code: str) -> Page:
        """Run a cell to its end."""
        self.to_end(self.begin(code))
        return self.page

    def _take_one(self) -> dict[str, Any] | None:
        try:
            message: dict[str, Any] = self.client.get_iopub_msg(timeout=0.2)
        except Empty:
            return None
        content, kind = message["content"], message["msg_type"]
        page = self.page
        if kind == "stream":
            page.text += content["text"]
        elif kind == "error":
            page.error_name, page.error_text = content["ename"], "\n".join(content["traceback"])
        elif kind in {"display_data", "update_display_data"}:
            name = content.get("transient", {}).get("display_id", str(len(page.displays)))
            page.displays[name] = content["data"]
        elif kind == "comm_open":
            page.models[content["comm_id"]] = dict(content["data"]["state"])
        elif kind == "comm_msg" and content["data"].get("method") == "update":
            page.models.setdefault(content["comm_id"], {}).update(content["data"]["state"])
            page.widget_bytes += len(str(content))
            page.updates.append(time.monotonic())
        elif kind == "comm_close":
            page.models.pop(content["comm_id"], None)
        return message
