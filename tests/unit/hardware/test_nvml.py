from __future__ import annotations

import pytest

from notebook_accel.hardware import nvml
from notebook_accel.hardware.gpus import Gpu, Slice
from notebook_accel.hardware.inventory import DeviceProcess, Load
from tests.unit.hardware.drivers import GIB, FakeGpu, FakeNvml, sliced_machine


@pytest.mark.parametrize("text", [str, bytes])
def test_gpus_are_listed_and_the_library_is_closed(text: type):
    library = FakeNvml(
        [FakeGpu("GPU-1", "Tesla T4", 15 * GIB, capability=(7, 5), mode=3), FakeGpu("GPU-2", "Odd", capability=None)],
        text,
    )
    assert nvml.list_gpus(library) == (
        Gpu(0, "GPU-1", "Tesla T4", 15 * GIB, (7, 5), "exclusive"),
        Gpu(1, "GPU-2", "Odd", 16 * GIB),
    )
    assert library.calls == ["init", "shutdown"]


def test_a_gpu_without_a_name_is_an_error_and_the_library_is_closed():
    library = FakeNvml([FakeGpu("GPU-1", None, 1)], bytes)
    with pytest.raises(AttributeError):
        nvml.list_gpus(library)
    assert library.calls == ["init", "shutdown"]


@pytest.mark.parametrize(("mode", "meaning"), [(0, "shared"), (1, "exclusive"), (2, "prohibited"), (3, "exclusive")])
def test_compute_modes(mode: int, meaning: str):
    assert nvml.list_gpus(FakeNvml([FakeGpu("GPU-1", "T4", mode=mode)]))[0].compute_mode == meaning


def test_slices_are_listed_whatever_place_they_are_in():
    first, second = nvml.list_gpus(sliced_machine())
    assert first.is_sliced
    assert first.slices == (Slice("MIG-aaaa-1", "3g.20gb", 20 * GIB), Slice("MIG-bbbb-2", "1g.5gb", 5 * GIB))
    assert (second.is_sliced, second.slices) == (False, ())


def test_what_gpus_do():
    library = FakeNvml(
        [
            FakeGpu("GPU-1", "T4", used=4 * GIB, busy=97, processes=((11, GIB), (12, None))),
            FakeGpu("GPU-2", "T4", busy=None),
            FakeGpu("GPU-3", "T4"),
        ]
    )
    assert nvml.read_loads(library, ["GPU-1", "GPU-2", "gone"]) == {
        "GPU-1": Load(
            busy_percent=97,
            memory_used_bytes=4 * GIB,
            memory_total_bytes=16 * GIB,
            processes=(DeviceProcess(pid=11, memory_bytes=GIB), DeviceProcess(pid=12)),
        ),
        "GPU-2": Load(memory_used_bytes=0, memory_total_bytes=16 * GIB),
    }
    assert nvml.read_loads(sliced_machine(), ["MIG-aaaa-1"])["MIG-aaaa-1"].processes[0].pid == 77


def test_the_library_has_every_function_that_is_called():
    library = pytest.importorskip("pynvml")
    called = [name for name in dir(FakeNvml) if name.startswith("nvml")]
    assert [name for name in called if not callable(getattr(library, name, None))] == []
