from __future__ import annotations

from pathlib import Path

import pytest

from notebook_accel.hardware.pci import unusable_gpus
from tests.xla.chips import pci_tree


def amd_node(sysfs: Path, number: int, properties: str) -> None:
    folder = sysfs / f"class/kfd/kfd/topology/nodes/{number}"
    folder.mkdir(parents=True)
    (folder / "properties").write_text(properties)


def test_amds_gpus_are_named_with_what_is_known(tmp_path: Path):
    amd_node(tmp_path, 0, "cpu_cores_count 16\nsimd_count 0\n")
    amd_node(tmp_path, 1, "simd_count 304\ngfx_target_version 90402\ndrm_render_minor 128\n")
    amd_node(tmp_path, 2, "simd_count 96\n")
    amd_node(tmp_path, 3, "")
    amd_node(tmp_path, 4, "simd_count many\n")
    device = tmp_path / "class/drm/renderD128/device"
    device.mkdir(parents=True)
    (device / "product_name").write_text("AMD Instinct MI300X\n")
    (device / "mem_info_vram_total").write_text(f"{192 << 30}\n")
    rows = unusable_gpus(tmp_path)
    assert [row.name for row in rows] == ["AMD Instinct MI300X (gfx942, 192 GiB)", "AMD GPU"]
    assert {row.reason for row in rows} == {"launching on ROCm is not built yet; the CPU is used"}


@pytest.mark.parametrize(
    ("vendor", "device_class", "driver", "found"),
    [
        ("0x8086", "0x030000", "xe", True),
        ("0x8086", "0x038000", "i915", True),
        ("0x8086", "0x020000", "e1000e", False),
        ("0x8086", "0x030000", "vfio-pci", False),
        ("0x10de", "0x030000", "nvidia", False),
    ],
)
def test_intels_gpus_are_found_by_their_driver(
    tmp_path: Path, vendor: str, device_class: str, driver: str, found: bool
):
    pci_tree(tmp_path, "0x56a0", vendor=vendor)
    folder = tmp_path / "bus/pci/devices/0000:00:00.0"
    (folder / "class").write_text(f"{device_class}\n")
    (tmp_path / driver).mkdir()
    (folder / "driver").symlink_to(tmp_path / driver)
    assert [row.name for row in unusable_gpus(tmp_path)] == (["Intel GPU (PCI device 0x56a0)"] if found else [])


def test_a_system_without_such_files(tmp_path: Path):
    assert unusable_gpus(tmp_path) == ()
