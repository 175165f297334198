"""NVIDIA's program ``nvidia-smi``, where its library cannot be asked.

Source: https://docs.nvidia.com/deploy/nvidia-smi
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace

from notebook_accel.hardware.gpus import Gpu, Slice
from notebook_accel.hardware.inventory import ComputeMode, DeviceProcess, Load

NO_PROGRAM = "there is no nvidia-smi"

_TIMEOUT_SECONDS = 20
_MIB = 2**20
_KNOWN_BY_ALL = "index,uuid,name,memory.total"
_KNOWN_BY_NEW = f"{_KNOWN_BY_ALL},compute_cap,compute_mode,mig.mode.current"
_MODES: dict[str, ComputeMode] = {
    "exclusive_process": "exclusive",
    "exclusive_thread": "exclusive",
    "prohibited": "prohibited",
}


class SmiError(Exception):
    """The program is not there, or gave no answer; the message says which."""


def list_gpus() -> tuple[Gpu, ...]:
    """List the machine's GPUs.

    Raises:
        SmiError: the program cannot be asked.
    """
    try:
        gpus = parse_gpus(_ask(f"--query-gpu={_KNOWN_BY_NEW}", "--format=csv,noheader,nounits"))
    except SmiError:  # older programs refuse the whole question
        gpus = parse_gpus(_ask(f"--query-gpu={_KNOWN_BY_ALL}", "--format=csv,noheader,nounits"))
    if any(gpu.is_sliced for gpu in gpus):
        slices = parse_slices(_ask("--list-gpus"))
        gpus = tuple(replace(gpu, slices=slices.get(gpu.uuid, ())) for gpu in gpus)
    return gpus


def read_loads(uuids: Sequence[str]) -> dict[str, Load]:
    """Look at GPUs now; of slices nothing is known this way.

    Args:
        uuids: of those to look at.

    Raises:
        SmiError: the program cannot be asked.
    """
    usage = _ask("--query-gpu=uuid,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
    try:
        users = _ask("--query-compute-apps=gpu_uuid,pid,process_name,used_memory", "--format=csv,noheader,nounits")
    except SmiError:
        users = ""
    return {uuid: load for uuid, load in parse_loads(usage, users).items() if uuid in uuids}


def driver_version() -> str:
    """Give the version of the driver, "" where the program has no answer.

    Raises:
        SmiError: the program cannot be asked.
    """
    return next(iter(_ask("--query-gpu=driver_version", "--format=csv,noheader").splitlines()), "").strip()


def _ask(*arguments: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise SmiError(NO_PROGRAM)
    try:
        done = subprocess.run(  # noqa: S603 - the driver's own program
            [program, *arguments], capture_output=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise SmiError(f"nvidia-smi did not answer within {_TIMEOUT_SECONDS} s") from None
    except (OSError, ValueError) as error:
        raise SmiError(f"nvidia-smi cannot be started: {error}") from None
    answer = done.stdout.decode(errors="replace")
    if done.returncode != 0 or answer.startswith("NVIDIA-SMI has failed"):
        said = (answer + done.stderr.decode(errors="replace")).strip().splitlines()
        raise SmiError(f"nvidia-smi failed (exit code {done.returncode})" + (f": {said[0]}" if said else ""))
    return answer


def parse_gpus(answer: str) -> tuple[Gpu, ...]:
    """Read rows of index, UUID, name and MiB, and where asked for capability, compute mode and MIG mode."""
    gpus = []
    for cells in _rows(answer):
        if len(cells) not in {4, 7} or not cells[0].isdecimal():
            continue
        number, uuid, name, mebibytes, *more = cells
        capability, mode, sliced = more or ["", "", ""]
        gpus.append(
            Gpu(
                int(number),
                uuid,
                name,
                (_number(mebibytes) or 0) * _MIB,
                _capability(capability),
                _MODES.get(mode.lower(), "shared"),
                sliced == "Enabled",
            )
        )
    return tuple(gpus)


def parse_slices(answer: str) -> dict[str, tuple[Slice, ...]]:
    """Read the list of GPUs with their slices, by the UUID of the GPU."""
    found: dict[str, tuple[Slice, ...]] = {}
    owner = ""
    for line in answer.splitlines():
        gpu = re.match(r"GPU \d+: .*\(UUID: ([^)]+)\)", line)
        part = re.match(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: ([^)]+)\)", line)
        if gpu:
            owner = gpu[1]
        elif part and owner:
            size = re.search(r"(\d+)gb", part[1])  # the name tells the memory, rounded
            slices = (*found.get(owner, ()), Slice(part[2], part[1], int(size[1]) << 30 if size else 0))
            found[owner] = slices
    return found


def parse_loads(usage: str, users: str) -> dict[str, Load]:
    """Read what GPUs do, by their UUID.

    Args:
        usage: rows of UUID, busy percent, MiB used, MiB there.
        users: rows of UUID, process number, program, MiB.
    """
    processes: dict[str, list[DeviceProcess]] = {}
    for cells in _rows(users):
        if len(cells) >= 4 and cells[1].isdecimal():  # noqa: PLR2004 - a program's path may hold commas
            uuid, pid, *program, mebibytes = cells
            held = _number(mebibytes)
            name = ",".join(program).rpartition("/")[2].partition(" ")[0]
            process = DeviceProcess(
                pid=int(pid),
                name="" if name.startswith("[") else name,
                memory_bytes=None if held is None else held * _MIB,
            )
            processes.setdefault(uuid, []).append(process)
    found = {}
    for cells in _rows(usage):
        if len(cells) == 4:  # noqa: PLR2004 - the columns asked for
            busy, used, total = (_number(cell) for cell in cells[1:])
            found[cells[0]] = Load(
                busy_percent=None if busy is None else float(busy),
                memory_used_bytes=None if used is None else used * _MIB,
                memory_total_bytes=None if total is None else total * _MIB,
                processes=tuple(processes.get(cells[0], ())),
            )
    return found


def _rows(answer: str) -> Iterator[list[str]]:
    for line in answer.splitlines():
        yield [cell.strip() for cell in line.split(",")]


def _number(cell: str) -> int | None:
    return int(cell) if cell.isascii() and cell.isdecimal() else None


def _capability(cell: str) -> tuple[int, int] | None:
    major, dot, minor = cell.partition(".")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None
