"""Run a notebook in a real kernel and print what its cells show:  python notebooks/run.py 01_quickstart.ipynb."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


class ThisInterpreter(KernelSpecManager):  # type: ignore[misc]  # traitlets' classes are untyped
    """Every kernel is the interpreter that runs this script; nothing is registered anywhere."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Give the one kernel there is, whatever the notebook's own is called."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=command, display_name=kernel_name, language="python")


def show(output: dict[str, Any]) -> None:
    """Print an output the way a terminal can."""
    if output["output_type"] == "stream":
        print(output["text"], end="", flush=True)
    elif output["output_type"] == "error":
        print("\n".join(output["traceback"]), flush=True)
    else:
        print(output["data"].get("text/plain", "(an output that has no text)"), flush=True)


def run(path: Path) -> int:
    """Execute the notebook beside its own folder, cell by cell; 1 when a cell fails, else 0."""
    notebook = nbformat.read(path, as_version=4)
    manager = AsyncKernelManager(kernel_spec_manager=ThisInterpreter())
    resources = {"metadata": {"path": str(path.resolve().parent)}}
    client = NotebookClient(notebook, km=manager, timeout=300, resources=resources)
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            failed = False
            try:
                client.execute_cell(cell, index)
            except CellExecutionError:
                failed = True
            for output in cell.get("outputs", []):
                show(output)
            if failed:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
