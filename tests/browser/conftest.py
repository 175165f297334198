"""A JupyterLab server and a headless browser for tests that click."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
TOKEN = "tested"  # of a server on loopback that lives as long as the test
BROWSER_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Lab:
    """A running JupyterLab."""

    address: str
    notebooks: Path
    log: Path

    def copy(self, notebook: str) -> str:
        """Lay a copy of one of the repository's notebooks before the server; give its page's address."""
        shutil.copy(ROOT / "notebooks" / notebook, self.notebooks)
        return f"{self.address}/lab/tree/{notebook}?token={TOKEN}&reset"

    def write(self, name: str, cells: list[str], app: str = "lab/tree") -> str:
        """Lay a notebook of our own before the server; give the address of its page in JupyterLab or in Notebook."""
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, self.notebooks / name)
        return f"{self.address}/{app}/{name}?token={TOKEN}" + ("&reset" if app == "lab/tree" else "")

    def end_kernels(self) -> None:
        """End every kernel: they outlive their page."""
        with self._ask("GET", "kernels") as answer:
            kernels = json.load(answer)
        for kernel in kernels:
            self._ask("DELETE", f"kernels/{kernel['id']}").close()

    def _ask(self, method: str, what: str) -> Any:
        headers = {"Authorization": f"token {TOKEN}"}
        request = urllib.request.Request(f"{self.address}/api/{what}", method=method, headers=headers)
        return urllib.request.urlopen(request, timeout=30)


@dataclass
class Page:
    """A page, and what it asked other hosts for."""

    playwright: Any
    elsewhere: list[str] = field(default_factory=list)

    def screenshot(self, name: str, of: str | None = None) -> None:
        """Keep a picture of what a selector finds, or of all; see ``keep_picture``."""
        if of is None:
            keep_picture(name, lambda: self.playwright.screenshot(full_page=True))
        else:
            keep_picture(name, self.playwright.locator(of).screenshot)


def keep_picture(name: str, taken: Callable[[], bytes]) -> None:
    """Keep a picture, small, where NOTEBOOK_ACCEL_SCREENSHOTS says, if it says."""
    folder = os.environ.get("NOTEBOOK_ACCEL_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        picture = Image.open(io.BytesIO(taken()))
        picture.convert("RGB").quantize(80).save(Path(folder) / f"{name}.png", optimize=True)


@pytest.fixture(scope="module")
def lab(marked_run: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("lab")
    notebooks = home / "notebooks"
    notebooks.mkdir()
    news = home / "config/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    folders = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    port = _free_port()
    command = [
        *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        *(f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"),
        *(f"--ServerApp.root_dir={notebooks}", "--LabApp.extension_manager=readonly"),
        *("--LabApp.expose_app_in_browser=True", "--JupyterNotebookApp.expose_app_in_browser=True"),
    ]
    log = home / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command,
            cwd=notebooks,
            env={**os.environ, **folders, "IPYTHONDIR": str(home / "ipython")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        found = Lab(f"http://127.0.0.1:{port}", notebooks, log)
        _wait_until_it_answers(server, found)
        yield found
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def browser(marked_run: None) -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True, timeout=600)
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=BROWSER_OPTIONS)
        yield running
        running.close()


def open_page(browser: Any, lab: Lab) -> Page:
    """Open a page that notes what it asks other hosts for."""
    opened = browser.new_page(viewport={"width": 1200, "height": 1600})
    wrapped = Page(opened)

    def note(request: Any) -> None:
        if not request.url.startswith((lab.address, lab.address.replace("http", "ws"), "data:", "blob:")):
            wrapped.elsewhere.append(request.url)

    opened.on("request", note)
    return wrapped


@pytest.fixture
def page(browser: Any, lab: Lab) -> Iterator[Page]:
    wrapped = open_page(browser, lab)
    yield wrapped
    wrapped.playwright.close()
    lab.end_kernels()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(server: subprocess.Popen[bytes], lab: Lab) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{lab.address}/api?token={TOKEN}", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{lab.log.read_text()[-3000:]}")
