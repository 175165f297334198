"""What a report of a problem needs: versions, what there is to compute on, and the settings. Nothing secret."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

from notebook_accel import __version__
from notebook_accel.cli.settings import shown_path
from notebook_accel.hardware import nvidia
from notebook_accel.hardware.inventory import Device, Inventory, Load
from notebook_accel.hardware.loads import read_loads
from notebook_accel.hardware.probe import probe
from notebook_accel.launch.basic_config import default_config_file

_PACKAGES = ("torch", "torch_xla", "accelerate", "ipykernel", "IPython", "ipywidgets", "jupyterlab")
_GIB = 2**30
_NOUNS = {"cuda": "GPU", "mps": "GPU", "xla": "TPU", "tpu": "TPU"}


def report() -> str:
    """Give it as text. torch is not imported, and no device's runtime is started."""
    inventory = probe()
    return "\n".join([*_versions(inventory), *_machine(inventory), *_settings()])


def _versions(inventory: Inventory) -> Iterator[str]:
    yield f"notebook_accel: {__version__}"
    yield f"Python: {platform.python_version()} ({platform.python_implementation()})"
    yield f"system: {platform.platform()}"
    yield f"place: {inventory.platform}"
    for name in _PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        build = inventory.torch
        yield f"{name}: {build.version} ({build.kind})" if name == "torch" and build.version else f"{name}: {version}"


def _machine(inventory: Inventory) -> Iterator[str]:
    host = inventory.host
    of_all = f" of {host.installed_cores}" if host.installed_cores else ""
    yield f"cores: {inventory.cpu_cores}{of_all}"
    yield f"memory: {_free(host.memory_available_bytes, host.memory_total_bytes)}"
    yield f"shared memory: {_free(host.shared_memory_free_bytes, host.shared_memory_total_bytes)}"
    driver = nvidia.driver_version()
    if driver:
        yield f"NVIDIA driver: {driver}"
    if not inventory.devices:
        yield "devices: none but the CPU"
    for device, load in zip(inventory.devices, read_loads(inventory.devices), strict=True):
        yield f"{_NOUNS[device.kind]} {device.index}: {_described(device, load)}"
    for row in inventory.unavailable:
        yield f"not usable: {row.name}: {row.reason}"


def _described(device: Device, load: Load) -> str:
    facts = [device.name]
    if device.memory_total_bytes:
        facts.append(_free(load.memory_free_bytes, device.memory_total_bytes))
    if device.compute_capability is not None:
        facts.append("compute capability {}.{}".format(*device.compute_capability))
    return ", ".join(facts)


def _free(free_bytes: int | None, total_bytes: int | None) -> str:
    if total_bytes is None:
        return "unknown"
    total = f"{total_bytes / _GIB:.1f} GiB"
    return total if free_bytes is None else f"{free_bytes / _GIB:.1f} of {total} free"


def _settings() -> Iterator[str]:
    file = default_config_file()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        yield f"settings: none ({shown_path(file)} does not exist)"
    except (OSError, ValueError) as error:
        yield f"settings: {shown_path(file)} cannot be read ({type(error).__name__})"
    else:
        yield f"settings: {shown_path(file)}"
        yield from (f"  {line}" for line in lines)
