"""The parts of the run panel as HTML and text, drawn from a state."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from notebook_accel.launch.bars import html_of, text_of

from .charts import charts_html, pictures_html
from .curves import number, sparkline
from .events import Reading
from .state import PanelState, RankState

_LIVE_CHARACTERS = 10_000  # of output, so that what is sent stays small
_STILL_CHARACTERS = 12_000  # of output of one rank, in what stays
_ALL_STILL_CHARACTERS = 36_000
_LAST_LINE_CHARACTERS = 60
_UNKNOWN = "\N{EN DASH}"
_MARKS = {"running": "●", "succeeded": "✔", "failed": "✘"}
_COLOURS = {
    "running": "var(--jp-brand-color1,#1976d2)",
    "succeeded": "var(--jp-success-color1,#2e7d32)",
    "failed": "var(--jp-error-color1,#d32f2f)",
}
_OTHER_COLOUR = "var(--jp-warn-color1,#c66900)"
_CELL = "padding:1px 10px 1px 0;text-align:left;border:none;white-space:nowrap;vertical-align:middle"
_FONT = "font-family:var(--jp-ui-font-family,sans-serif);font-size:13px;color:var(--jp-ui-font-color1,inherit)"
_CODE = "font-family:var(--jp-code-font-family,monospace);font-size:12px"


def status_html(state: PanelState) -> str:
    """Say how the run stands; read out by screen readers, so it changes only when that does."""
    colour = _COLOURS.get(state.state, _OTHER_COLOUR)
    word = "stopping" if state.stopping and not state.ended else state.state
    return (
        f'<div role="status" aria-live="polite" style="{_FONT}"><span style="color:{colour}">'
        f"{_MARKS.get(state.state, '■')}</span> <b>{html.escape(state.name)}</b> {word}</div>"
    )


def overview_html(state: PanelState) -> str:
    """Draw the time, a row for each rank, the bars, and what went wrong."""
    parts = [f'<div style="{_FONT}"><small>{duration(state.elapsed_seconds)}, {html.escape(state.plan)}</small>']
    parts.append(_ranks_table(state.ranks))
    if state.bars:
        parts.append(html_of(state.bars))
    if state.waiting_displays and not state.ended:
        parts.append(f"<small>{state.waiting_displays} displays wait for run.show()</small>")
    return "".join([*parts, failure_html(state), "</div>"])


def failure_html(state: PanelState) -> str:
    """Say what went wrong, and what should be known all the same."""
    parts = []
    if state.failure:
        first, *rest = (html.escape(line) for line in state.failure)
        more = "".join(f"<br><code>{line}</code>" for line in rest)
        style = f"border-left:3px solid {_COLOURS['failed']};padding:2px 8px;margin:4px 0"
        parts.append(f'<div role="alert" style="{style}"><b>{first}</b>{more}</div>')
    parts += [f"<div>notebook_accel: {html.escape(notice)}</div>" for notice in state.notices]
    return "".join(parts)


def _ranks_table(ranks: Sequence[RankState]) -> str:
    shows = _Columns(ranks)
    head = "".join(f'<th scope="col" style="{_CELL}">{title}</th>' for title in shows.titles())
    rows = []
    for number_of_rank, rank in enumerate(ranks):
        cells = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in shows.cells(number_of_rank, rank))
        rows.append(f'<tr style="background:none"><th scope="row" style="{_CELL}">{number_of_rank}</th>{cells}</tr>')
    table = "border-collapse:collapse;border:none;margin:2px 0;font-variant-numeric:tabular-nums"
    return (
        f'<div style="overflow-x:auto"><table style="{table}"><thead><tr style="background:none">{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


class _Columns:
    """The columns of the table of ranks: those that say something."""

    def __init__(self, ranks: Sequence[RankState]) -> None:
        self._bars = any(rank.part is not None for rank in ranks)
        self._steps = any(step_of(rank) for rank in ranks)
        self._readings = any(rank.reading != Reading() for rank in ranks)
        self._ended = any(rank.ended for rank in ranks)

    def titles(self) -> list[str]:
        found = ["rank", "device"]
        found += ["busy", "memory"] if self._readings else []
        found += ["progress"] if self._bars else []
        found += ["step", "steps/s"] if self._steps else []
        return [*found, *(["ended"] if self._ended else []), "last line"]

    def cells(self, number_of_rank: int, rank: RankState) -> list[str]:
        found = [html.escape(rank.device)]
        found += [busy_of(rank.reading), memory_of(rank.reading)] if self._readings else []
        if self._bars:
            part = None if rank.part is None else round(rank.part, 3)
            bar = f'<progress aria-label="rank {number_of_rank}" value="{part}" max="1" style="width:9em"></progress>'
            found.append(_UNKNOWN if part is None else bar)
        rate = _UNKNOWN if rank.rate is None else number(rank.rate)
        found += [step_of(rank) or _UNKNOWN, rate] if self._steps else []
        found += [html.escape(rank.ended)] if self._ended else []
        line = rank.last_line
        line = line if len(line) <= _LAST_LINE_CHARACTERS else f"{line[:_LAST_LINE_CHARACTERS]}…"
        return [*found, f'<span style="{_CODE}">{html.escape(line)}</span>']


def step_of(rank: RankState) -> str:
    """Say how far a rank is; nothing where nobody knows."""
    if rank.step is not None:
        return f"{rank.step:g}"
    if rank.bar is None:
        return ""
    return f"{rank.bar.done:g}" if rank.bar.total is None else f"{rank.bar.done:g}/{rank.bar.total:g}"


def busy_of(reading: Reading) -> str:
    """Say how busy a rank's device is."""
    return _UNKNOWN if reading.busy_percent is None else f"{reading.busy_percent:.0f} %"


def memory_of(reading: Reading) -> str:
    """Say how much memory a rank uses."""
    used = _UNKNOWN if reading.memory_bytes is None else size(reading.memory_bytes)
    return used if reading.memory_total_bytes is None else f"{used} / {size(reading.memory_total_bytes)}"


def size(count_bytes: float) -> str:
    """Write a number of bytes for people.

    Example:
        >>> size(3 * 2**20), size(1.5 * 2**30)
        ('3 MiB', '1.5 GiB')
    """
    mebibytes = count_bytes / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GiB"  # noqa: PLR2004 - four digits


def duration(seconds: float) -> str:
    """Write a duration for people.

    Example:
        >>> duration(3.21), duration(754)
        ('3.2 s', '12 min 34 s')
    """
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def curves_html(state: PanelState) -> str:
    """Draw the curves, with values under the pointer."""
    return f'<div style="{_FONT}">{charts_html(state.curves, log_scale=state.log_scale)}{_left_out(state)}</div>'


def _left_out(state: PanelState) -> str:
    if not state.left_out:
        return ""
    return f"<small>not drawn: {html.escape(', '.join(state.left_out[:20]))}; result.metrics has all</small>"


def output_html(state: PanelState) -> str:
    """Show the last lines of output; the place keeps to the end of the text without a script."""
    whose = "all ranks" if state.shown is None else f"rank {state.shown}"
    return _log(f"output of {whose}", _tail(state.output_lines(), _LIVE_CHARACTERS))


def _log(label: str, text: str) -> str:
    # A column that runs upwards keeps to its end.
    box = "max-height:16em;overflow:auto;display:flex;flex-direction:column-reverse"
    pre = f"flex:none;overflow:visible;margin:0;white-space:pre-wrap;line-height:1.35;{_CODE}"
    border = "border:1px solid var(--jp-border-color2,#bdbdbd);padding:2px 6px"
    return (
        f'<div role="log" aria-label="{label}" tabindex="0" style="{box};{border};{_FONT}">'
        f'<pre style="{pre}">{html.escape(text)}</pre></div>'
    )


def stacks_html(state: PanelState) -> str:
    """Show where each rank was when somebody asked."""
    if not state.stacks:
        return ""
    return "".join(
        f'<details open style="{_FONT}"><summary>rank {rank}</summary>'
        f'<pre style="white-space:pre-wrap;margin:0;{_CODE}">{html.escape(text)}</pre></details>'
        for rank, text in state.stacks.items()
    )


def _tail(lines: Iterable[str], most: int) -> str:
    text = "\n".join(lines)
    return text if len(text) <= most else text[-most:].partition("\n")[2]


def still_html(state: PanelState) -> str:
    """Draw what stays of a run: no script, no style sheet, nothing that a viewer of notebooks takes away."""
    parts = [status_html(state).replace(' role="status" aria-live="polite"', ""), overview_html(state)]
    parts += [_metrics_table(state), pictures_html(state.curves, log_scale=state.log_scale), _left_out(state)]
    most = max(1_000, min(_STILL_CHARACTERS, _ALL_STILL_CHARACTERS // (len(state.ranks) + 1)))
    tails = [("all ranks", state.lines)] if len(state.ranks) > 1 else []
    tails += [
        (f"rank {rank}", (*of_rank.lines, *filter(None, [of_rank.unfinished])))
        for rank, of_rank in enumerate(state.ranks)
    ]
    for whose, lines in tails:
        if lines:
            opened = " open" if whose == tails[0][0] else ""
            title = f"output of {whose}"
            log = _log(title, _tail(lines, most))
            parts.append(f"<details{opened}><summary>{title}, the last lines</summary>{log}</details>")
    return f'<div style="{_FONT}">{"".join(parts)}</div>'


def _metrics_table(state: PanelState) -> str:
    if not state.curves:
        return ""
    rows = []
    for name, of_ranks in state.curves.items():
        curve = next(iter(of_ranks.values()))
        cells = [html.escape(name), sparkline(curve), *_numbers(curve.first, curve.last, curve.low, curve.high)]
        rows.append("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>")
    titles = ("metric", "", "first", "last", "lowest", "highest")
    head = "".join(f'<th scope="col" style="{_CELL}">{title}</th>' for title in titles)
    return f'<table style="border:none"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _numbers(*values: float) -> list[str]:
    return [number(value) for value in values]


def summary_text(state: PanelState) -> str:
    """Say in lines of text what the panel shows, without the output."""
    lines = [f"{state.name} {state.state} after {duration(state.elapsed_seconds)} ({state.plan})", *state.failure]
    if any(step_of(rank) or rank.ended for rank in state.ranks):
        for number_of_rank, rank in enumerate(state.ranks):
            facts = [f"step {step_of(rank)}" if step_of(rank) else "", _rate_in_words(rank), rank.ended]
            lines.append(f"  rank {number_of_rank}: {', '.join(filter(None, facts)) or rank.device}")
    for name, of_ranks in state.curves.items():
        curve = next(iter(of_ranks.values()))
        course = f"{sparkline(curve)} {number(curve.first)} → {number(curve.last)}"
        lines.append(f"  {name}: {course} (lowest {number(curve.low)}, highest {number(curve.high)})")
    return "\n".join([*lines, *(f"  {notice}" for notice in state.notices)])


def _rate_in_words(rank: RankState) -> str:
    return "" if rank.rate is None else f"{number(rank.rate)} steps/s"


def still_text(state: PanelState) -> str:
    """Say what the panel shows in text, with the last lines of output."""
    parts = [summary_text(state)]
    if state.bars:
        parts.append(text_of(state.bars))
    if state.lines:
        parts.append(_tail(state.lines, _STILL_CHARACTERS))
    return "\n".join(parts)
