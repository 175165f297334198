"""Accelerators that are found and cannot be used yet: AMD's and Intel's GPUs, looked up in the system's files."""

from __future__ import annotations

from pathlib import Path

from notebook_accel.hardware.inventory import Unavailable

_AMD, _INTEL = "0x1002", "0x8086"
_INTEL_DRIVERS = frozenset({"xe", "i915"})
_DISPLAY_CLASS = "0x03"


def unusable_gpus(sysfs: Path = Path("/sys")) -> tuple[Unavailable, ...]:
    """Name GPUs of makers on whose devices no ranks can be started yet.

    Args:
        sysfs: where the system shows its devices.

    Source: https://docs.kernel.org/gpu/amdgpu/driver-misc.html (names of AMD's files)
    """
    return (*_amd(sysfs), *_intel(sysfs))


def _amd(sysfs: Path) -> list[Unavailable]:
    """Go through the nodes of the compute driver: those with vector units are GPUs."""
    found = []
    for file in sorted(sysfs.glob("class/kfd/kfd/topology/nodes/*/properties")):
        said = dict(line.split(maxsplit=1) for line in _text(file).splitlines() if len(line.split()) > 1)
        if not said.get("simd_count", "0").strip().isdecimal() or int(said.get("simd_count", "0")) == 0:
            continue
        name = _amd_name(sysfs, said) or "AMD GPU"
        found.append(Unavailable(name=name, reason="launching on ROCm is not built yet; the CPU is used"))
    return found


def _amd_name(sysfs: Path, said: dict[str, str]) -> str:
    minor, version = said.get("drm_render_minor", ""), said.get("gfx_target_version", "")
    folder = sysfs / f"class/drm/renderD{minor}/device"
    name = _text(folder / "product_name") or "AMD GPU"
    facts = []
    if version.isdecimal():  # 90402 is gfx942
        number = int(version)
        facts.append(f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}")
    memory = _text(folder / "mem_info_vram_total")
    facts += [f"{int(memory) / 2**30:.0f} GiB"] if memory.isdecimal() else []
    return name + (f" ({', '.join(facts)})" if facts else "")


def _intel(sysfs: Path) -> list[Unavailable]:
    found = []
    for vendor in sorted(sysfs.glob("bus/pci/devices/*/vendor")):
        folder = vendor.parent
        driver = (folder / "driver").resolve().name
        is_display = _text(folder / "class").startswith(_DISPLAY_CLASS)
        if _text(vendor) == _INTEL and is_display and driver in _INTEL_DRIVERS:
            name = f"Intel GPU (PCI device {_text(folder / 'device')})"
            found.append(Unavailable(name=name, reason="launching on XPU is not built yet; the CPU is used"))
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, ValueError):
        return ""
