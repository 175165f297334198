"""What the picker says of a run that its button started, beside the run's own panel."""

from __future__ import annotations

import html
from typing import Any

from notebook_accel.errors import AccelError
from notebook_accel.launch.run import Run

from .cards import CODE

_BOX = f"{CODE};margin:4px 0;white-space:pre-wrap;color:inherit"


def notices_html(notices: list[str]) -> str:
    """Draw what should be known about a start."""
    return "".join(f"<div>notebook_accel: {html.escape(notice)}</div>" for notice in notices)


def refusal_html(error: Exception) -> str:
    """Say why nothing was started."""
    style = f"{_BOX};border-left:3px solid var(--jp-error-color1,#d32f2f);padding:2px 8px"
    return f'<div role="alert"><b>✘ not launched</b><pre style="{style}">{html.escape(str(error))}</pre></div>'


def ending_html(run: Run[Any]) -> str:
    """Say what an ended run gave; why it failed stands in its panel."""
    notices = notices_html(run.notices())
    try:
        result = run.result()
    except AccelError:
        return notices
    return f'<pre style="{_BOX}" aria-label="result">{html.escape(repr(result))}</pre>{notices}'
