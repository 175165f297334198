"""What kind of failure an exception is: one of its own, what another rank's end has caused, or a lack of memory."""

from __future__ import annotations

import re

from notebook_accel.traces import Trace

# What gloo, NCCL and torch's store say when the process at the other end has gone or has not come.
_OTHERS_END = re.compile(
    r"connection (?:was )?(?:likely )?(?:closed|reset)|broken pipe|pair closure|remote process exited|"
    r"communicator (?:was|is|has been) aborted|nccl\w* (?:was|has been) aborted|ncclRemoteError|"
    r"watchdog caught collective operation timeout|timed out waiting \d+ ?ms for (?:send|recv)|"
    r"rank \d+ got a timeout|failed to recv, got 0 bytes|socket timeout|"
    r"(?:wait|client socket has) time(?:d )?out|connectFullMesh failed|"
    r"failed to pass monitoredBarrier",
    re.IGNORECASE,
)
_OF_GROUPS = re.compile(
    r"gloo|nccl|TCPStore|ProcessGroup|pair\.cc|collective|connection|broken pipe|socket|store|barrier", re.IGNORECASE
)
_GROUP_ERRORS = {"DistBackendError", "DistNetworkError", "DistStoreError", "DistError"}
_CLOSED = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, EOFError)
_CHANNELS = ("/torch/distributed/", "/multiprocessing/", "/torch/nn/parallel/", "/torch/multiprocessing/")

_CUDA = re.compile(
    r"out of memory\. Tried to allocate (?P<asked>[\d.]+ \w+)\.(?: GPU (?P<gpu>\d+) has a total capacity of "
    r"(?P<total>[\d.]+ \w+) of which (?P<free>[\d.]+ \w+) is free\.)?"
)
_CUDA_OTHERS = re.compile(r"Process (\d+) has ([\d.]+ \w+) memory in use")
_CPU = re.compile(r"DefaultCPUAllocator: (?:can't allocate|not enough) memory: you tried to allocate (\d+) bytes")
_LESS_MEMORY = (
    'lower the batch size and accumulate gradients, or use mixed_precision="bf16"; '
    "torch.utils.checkpoint trades time for memory"
)
_LESS_RAM = (
    "every rank needs that much: lower the batch size, the number of ranks or the DataLoader's num_workers; share() "
    "keeps large data once for all ranks"
)


def follows_anothers_end(error: BaseException, chain: tuple[Trace, ...]) -> bool:
    """Say whether an exception is what a rank sees when another one has gone.

    Args:
        error: the exception.
        chain: it and what led to it, as data.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    for trace in reversed(chain):
        if current is None or id(current) in seen:
            return False
        seen.add(id(current))
        if _is_others_end(current, trace):
            return True
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return False


def _is_others_end(error: BaseException, trace: Trace) -> bool:
    if isinstance(error, _CLOSED):
        return any(channel in frame.file for frame in trace.frames for channel in _CHANNELS)
    if not isinstance(error, RuntimeError):
        return False
    said = _OTHERS_END.search(trace.text) is not None
    return said and (type(error).__name__ in _GROUP_ERRORS or _OF_GROUPS.search(trace.text) is not None)


def shortage(error: BaseException, text: str) -> tuple[str, str] | None:
    """Say what memory ran out, and what to do, if that is what an exception says.

    Args:
        error: the exception.
        text: its text.

    Returns:
        What happened and the hint, None where memory is not the matter.
    """
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text:
        return _cuda_shortage(text)
    found = _CPU.search(text)
    if found is not None:
        return f"no memory on the CPU: {_size(int(found[1]))} asked for", _LESS_RAM
    if isinstance(error, MemoryError):
        first_line = text.strip().splitlines()[0] if text.strip() else "the process got no more of it"
        return f"no memory on the CPU: {first_line}", _LESS_RAM
    return None


def _cuda_shortage(text: str) -> tuple[str, str]:
    found = _CUDA.search(text)
    if found is None:
        return "the GPU has no more memory", _LESS_MEMORY
    what = f"no memory on the GPU: {found['asked']} asked for"
    if found["gpu"] is not None:
        what = f"no memory on GPU {found['gpu']}: {found['asked']} asked for, {found['free']} free of {found['total']}"
    others = [f"process {pid} holds {size}" for pid, size in _CUDA_OTHERS.findall(text)]
    also = f"; of this GPU {', '.join(others)}: is it a run or a notebook that can end?" if others else ""
    return what, _LESS_MEMORY + also


def _size(count_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count_bytes < 1024:  # noqa: PLR2004 - a KiB
            return f"{count_bytes:.4g} {unit}"
        count_bytes /= 1024
    return f"{count_bytes:.4g} TiB"
