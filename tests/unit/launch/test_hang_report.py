from __future__ import annotations

import importlib.util
import sysconfig
import time

import pytest

from notebook_accel.launch.hang_report import StillRank, report_of, waiting_of
from notebook_accel.launch.stacks import Frame

SITE = sysconfig.get_path("purelib")
C10D = f"{SITE}/torch/distributed/distributed_c10d.py"
LOGGER = f"{SITE}/torch/distributed/c10d_logger.py"
GRAPH = f"{SITE}/torch/autograd/graph.py"
DDP = f"{SITE}/torch/nn/parallel/distributed.py"
LOADER = f"{SITE}/torch/utils/data/dataloader.py"


def stack(*calls: tuple[str, str]) -> str:
    """Write as faulthandler does, the innermost call first."""
    lines = [f'  File "{file}", line {number} in {function}\n' for number, (file, function) in enumerate(calls, 1)]
    return "Stack (most recent call first):\n" + "".join(lines)


def frames(*calls: tuple[str, str]) -> list[Frame]:
    return [Frame(file, number, function) for number, (file, function) in enumerate(calls, 1)]


@pytest.mark.parametrize(
    ("calls", "words", "for_ranks"),
    [
        ([(C10D, "all_reduce"), (LOGGER, "wrapper")], "waits in all_reduce", True),
        ([(C10D, "barrier"), (LOGGER, "wrapper")], "waits in barrier", True),
        ([(C10D, "all_gather"), (LOGGER, "wrapper"), (C10D, "all_gather_object")], "waits in all_gather_object", True),
        ([(C10D, "recv")], "waits in recv", True),
        (
            [(C10D, "_new_process_group_helper"), (C10D, "init_process_group"), (LOGGER, "wrapper")],
            "waits for the other ranks to form a group",
            True,
        ),
        ([(GRAPH, "_engine_run_backward"), (f"{SITE}/torch/_tensor.py", "backward")], "waits in backward", True),
        ([(DDP, "__init__")], "waits where DistributedDataParallel is built", True),
        (
            [(f"{SITE}/x/queue.py", "get"), (LOADER, "_try_get_data"), (LOADER, "_get_data"), (LOADER, "__next__")],
            "waits for a DataLoader worker",
            False,
        ),
    ],
)
def test_what_a_rank_waits_for_is_recognised(calls: list[tuple[str, str]], words: str, for_ranks: bool):
    waiting = waiting_of(frames(*calls, ("train.py", "train")))
    assert waiting is not None
    assert (waiting.words, waiting.for_ranks) == (words, for_ranks)


def test_the_users_own_code_that_a_library_has_called_does_not_wait():
    assert waiting_of(frames(("train.py", "hook"), (GRAPH, "_engine_run_backward"), ("train.py", "train"))) is None
    assert waiting_of(frames((f"{SITE}/torch/nn/functional.py", "linear"), ("train.py", "train"))) is None
    assert waiting_of([]) is None


def test_the_functions_it_knows_exist():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    import torch.autograd.graph
    import torch.distributed.distributed_c10d as c10d
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Loader

    assert torch.autograd.graph._engine_run_backward.__code__.co_filename.endswith("/torch/autograd/graph.py")
    assert c10d.__file__.endswith("/torch/distributed/distributed_c10d.py")
    assert DistributedDataParallel._sync_buffers.__code__.co_filename.endswith("/torch/nn/parallel/distributed.py")
    for name in ("_try_get_data", "_get_data", "_shutdown_workers"):
        assert getattr(Loader, name).__code__.co_filename.endswith("/torch/utils/data/dataloader.py")


def test_who_waits_and_who_is_elsewhere():
    now = time.monotonic()
    waiting = stack((C10D, "all_reduce"), (LOGGER, "wrapper"), ("train.py", "train"))
    report = report_of(
        "train",
        [
            StillRank(0, waiting, now - 130.2),
            StillRank(1, stack(("train.py", "train")), now - 121),
            StillRank(2, waiting, now - 132),
            StillRank(3, stack(("train.py", "evaluate")), now - 125, computes=True),
        ],
        {},
        now,
    )
    clock = time.strftime("%H:%M:", time.localtime(time.time() - 130.2))
    title, waits, elsewhere, computes = report.lines
    assert title == "train hangs: nothing has changed for 121 s"
    assert waits.startswith(f"  ranks 0 and 2 wait in all_reduce, called in train (train.py, line 3), since {clock}")
    assert waits.endswith(" (130 s)")
    assert elsewhere.startswith("  rank 1 is elsewhere: in train (train.py, line 1), since ")
    assert computes.startswith("  rank 3 computes elsewhere: in evaluate (train.py, line 1), since ")
    assert report.places[0] == "waits in all_reduce, called in train (train.py, line 3)"
    assert str(report).splitlines() == list(report.lines)


def test_a_rank_that_has_ended_is_waited_for():
    now = time.monotonic()
    waiting = stack((GRAPH, "_engine_run_backward"), ("train.py", "train"))
    report = report_of("train", [StillRank(1, waiting, now - 2.5)], {0: "has returned", 2: "has returned"}, now)
    assert report.lines[0] == "train hangs: nothing has changed for 2.5 s"
    assert report.lines[1] == "  ranks 0 and 2 have returned: the others wait for them"
    assert report.lines[2].startswith("  rank 1 waits in backward, called in train (train.py, line 2), since ")


def test_ranks_that_wait_for_nobody_are_not_elsewhere():
    now = time.monotonic()
    asleep, loading = stack(("train.py", "train")), stack((LOADER, "_get_data"), ("train.py", "train"))
    report = report_of("train", [StillRank(0, asleep, now), StillRank(1, loading, now)], {2: "has ended"}, now)
    _, first, second, third = report.lines
    assert first.startswith("  rank 0 is in train (train.py, line 1), since ")
    assert second.startswith("  rank 1 waits for a DataLoader worker, called in train (train.py, line 2), since ")
    assert third == "  rank 2 has ended"


def test_different_collectives_are_explained():
    now = time.monotonic()
    both = [
        StillRank(0, stack((C10D, "barrier"), ("train.py", "train")), now),
        StillRank(1, stack((C10D, "broadcast"), ("train.py", "train")), now),
    ]
    assert report_of("train", both, {}, now).lines[-1] == (
        "  every rank must call the same collectives in the same order"
    )


def test_ranks_that_do_not_answer():
    now = time.monotonic()
    report = report_of("train", [StillRank(0, "", now), StillRank(1, "", now)], {}, now)
    assert "  ranks 0 and 1 do not answer: still starting, or stopped, since " in report.lines[1]
