"""What the run panel costs: in the ranks, in the kernel, on the way to the browser, and at the end of a run.

Everything runs in a real kernel whose messages are read as a page would read them. Run with ``make bench``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.integration.panels import PanelNotebook

SETUP = """
import time
from notebook_accel import Accelerator, notebook_launcher
from tqdm.auto import trange

def log_fast(count, warm_seconds):
    accelerator = Accelerator()
    begin = time.perf_counter()
    while time.perf_counter() - begin < warm_seconds:
        time.sleep(0.01)
    values = {"loss": 0.5}
    spent = []
    for _ in range(count // 100):
        begin = time.perf_counter()
        for step in range(100):
            accelerator.log(values, step=step)
        spent.append((time.perf_counter() - begin) / 100)
        time.sleep(0.01)
    spent.sort()
    return spent[len(spent) // 2] * 1e6

def train(seconds, step_seconds, flood=False):
    accelerator = Accelerator()
    until = time.monotonic() + seconds
    for step in trange(10**9, desc="steps"):
        time.sleep(step_seconds)
        accelerator.log({"loss": 1 / (1 + step), "accuracy": 1 - 1 / (1 + step)}, step=step)
        if flood:
            print("x" * 100, step)
        if time.monotonic() > until:
            return step, time.monotonic()
"""


def cpu_seconds(pid: int) -> float:
    """Give the processor time that a process has used."""
    spent = psutil.Process(pid).cpu_times()
    return spent.user + spent.system


def measure_logging(notebook: PanelNotebook) -> float:
    """Give the microseconds that a call of ``log`` takes in a rank while its panel is live."""
    page = notebook.cell("print(notebook_launcher(log_fast, args=(10_000, 2.0), num_processes=1, devices='cpu').value)")
    assert page.error_name is None, page.error_text
    return float(page.text.strip().splitlines()[-1])


def measure_run(
    notebook: PanelNotebook, seconds: float, step_seconds: float, *, flood: bool = False
) -> dict[str, float]:
    """Run 4 ranks that log every step; give the kernel's CPU, the traffic while they ran, and how late the end was."""
    page = notebook.page
    page.displays.clear()
    page.text = ""
    call = f"train, args=({seconds}, {step_seconds}, {flood}), num_processes=4, devices='cpu'"
    request = notebook.begin(f"result = notebook_launcher({call})")
    widgets = notebook.variables.get("NOTEBOOK_ACCEL_UI") == "widgets"
    begin = time.monotonic()
    notebook.until(lambda page: page.live if widgets else time.monotonic() - begin > 3, "a live panel")
    page.widget_bytes, page.updates = 0, []
    begin, spent = time.monotonic(), cpu_seconds(notebook.pid)
    notebook.until(lambda _page: time.monotonic() - begin > seconds - 3, "time")
    passed, spent = time.monotonic() - begin, cpu_seconds(notebook.pid) - spent
    sent, ticks = page.widget_bytes, len({round(at, 1) for at in page.updates})
    still_at = None
    if widgets:
        notebook.until(lambda page: "succeeded" in page.still, "what stays")
        still_at = time.monotonic()
    notebook.to_end(request)
    assert page.error_name is None, page.error_text
    page.text = ""
    values = notebook.cell("print(max(at for _, at in result), sum(step for step, _ in result))").text.split()
    return {
        "cpu": spent / passed,
        "bytes": sent / passed,
        "ticks": ticks / passed,
        "late": 0.0 if still_at is None else still_at - float(values[0]),
        "logs": float(values[1]) / seconds,
    }


def report(ui: str, folder: str, rounds: int, seconds: float) -> None:
    """Measure with one way to show runs, and print."""
    notebook = PanelNotebook(folder, {"NOTEBOOK_ACCEL_UI": ui})
    try:
        assert notebook.cell(SETUP).error_name is None, notebook.page.error_text
        notebook.cell("notebook_launcher(max, args=(1, 2), num_processes=1, devices='cpu')")
        logging = statistics.median(measure_logging(notebook) for _ in range(rounds))
        print(f"NOTEBOOK_ACCEL_UI={ui}")
        print(f"  one accelerator.log in a rank                    {logging:8.1f} us")
        for step_seconds, flood in [(0.02, False), (0.005, False), (0.005, True)]:
            runs = [measure_run(notebook, seconds, step_seconds, flood=flood) for _ in range(rounds)]
            found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            what = f"4 ranks, {found['logs']:5.0f} logs a second{', a line for each' if flood else ''}"
            print(f"  {what}")
            print(f"    kernel CPU                                     {found['cpu']:8.1%} of a core")
            print(f"    to the browser                                 {found['bytes'] / 1000:8.1f} kB/s")
            if ui == "widgets":
                print(f"    drawn                                          {found['ticks']:8.1f} times a second")
                print(f"    from the function's end to what stays          {found['late']:8.3f} s")
    finally:
        notebook.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        for ui in ("widgets", "text"):
            report(ui, folder, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
