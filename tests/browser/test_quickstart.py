"""The quick start as a person sees it: JupyterLab, Run All, and what stands under the cells at the end."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.browser

# Before the kernel is connected a command would be lost.
KERNEL_IS_IDLE = """() => {
    const widget = window.jupyterapp?.shell?.currentWidget;
    return widget?.sessionContext?.isReady && widget.sessionContext.session?.kernel?.status === 'idle';
}"""
RUN_ALL = """() => {
    window.jupyterapp.commands.execute('notebook:run-all-cells').finally(() => { window.allRan = true; });
}"""
ALL_RAN = "() => window.allRan === true"
OUTPUTS = """() => {
    const cells = window.jupyterapp.shell.currentWidget.content.model.cells;
    return Array.from({length: cells.length}, (_, i) => cells.get(i))
        .filter(cell => cell.type === 'code').map(cell => cell.outputs.toJSON());
}"""


def text_of(outputs: list) -> str:
    return "".join(
        "".join(output.get("text", "")) + "".join(output.get("data", {}).get("text/plain", "")) for output in outputs
    )


def test_the_quick_start_runs_in_jupyterlab(lab, page):
    tab = page.playwright
    tab.goto(lab.copy("01_quickstart.ipynb"))
    tab.wait_for_function(KERNEL_IS_IDLE, timeout=60_000)
    tab.evaluate(RUN_ALL)
    tab.wait_for_function(ALL_RAN, timeout=100_000)

    outputs = tab.evaluate(OUTPUTS)
    page.screenshot("quickstart")
    assert not [output for cell in outputs for output in cell if output["output_type"] == "error"]
    texts = [text_of(cell) for cell in outputs]
    launched = next(text for text in texts if "notebook_accel: 2 CPU processes" in text)
    accuracies = [float(value) for value in re.findall(r"^epoch \d+: test accuracy ([\d.]+)%", launched, re.MULTILINE)]
    assert accuracies[-1] >= 95
    assert re.search(r"RunResult\(2 ranks, [\d.]+ s\)", launched)
    assert "second launch" in texts[-1]

    shown = " ".join(tab.locator(".jp-OutputArea-output").all_inner_texts())
    assert f"test accuracy {accuracies[-1]}%" in shown
    assert "2 ranks in " in shown
    assert page.elsewhere == []
