"""Save in processes that are killed at one line after another, and look each time at what is left.

A script: it forks from an interpreter that has torch loaded and no other thread, so that many points take seconds.
"""

from __future__ import annotations

import json
import linecache
import os
import re
import shutil
import signal
import socket
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch._dynamo
from torch import nn

from notebook_accel import Accelerator, ProjectConfiguration
from notebook_accel.core import checkpoints, files, weights
from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.environment import patched
from notebook_accel.errors import AccelError
from notebook_accel.world import World

PACKAGES = (*(str(Path(package.__file__ or "").parent) for package in (checkpoints, files, weights)), shutil.__file__)
SYSTEM_CALLS = re.compile(
    r"\b(open|flush|fsync|sync|close|mkdir|rename|replace|unlink|rmdir|rmtree|link|copytree|copy2|exists|stat|begin|commit"
    r"|prune|gather|write_tensors|write_objects|iterdir|read)\("
)
OLD, NEW = 1.0, 2.0


class Killer:
    """Ends this process before the n-th line of the saving code that asks the operating system for something.

    Attributes:
        lines: how many such lines were reached.
    """

    def __init__(self, point: int | None) -> None:
        self.lines = 0
        self._point = point

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGES):
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and SYSTEM_CALLS.search(line):
            self.lines += 1
            if self.lines == self._point:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def built(folder: Path, value: float, named: str | None) -> tuple[Accelerator, nn.Module]:
    project = ProjectConfiguration(project_dir=folder, automatic_checkpoint_naming=named is None, total_limit=1)
    accelerator = Accelerator(cpu=True, project_config=project)
    model, other = nn.Linear(4, 4), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model, other, optimizer = accelerator.prepare(model, other, optimizer)
    for parameter in (*model.parameters(), *other.parameters()):
        parameter.data.fill_(value)
    accelerator.register_for_checkpointing(torch.optim.lr_scheduler.StepLR(optimizer.optimizer, 1))
    return accelerator, model


def save(folder: Path, value: float, point: int | None, world: World, named: str | None) -> int:
    """Save ``value``; give how many lines that took."""
    with activate(Runtime(world)) as runtime:
        accelerator, _ = built(folder, value, named)
        killer = Killer(point)
        sys.settrace(killer)
        try:
            accelerator.save_state(None if named is None else folder / named)
        finally:
            sys.settrace(None)
        runtime.close()
    return killer.lines


def found(folder: Path, named: str | None) -> float:
    """Load what is there, as the next run would."""
    with activate(Runtime(World())), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other numbers of ranks, and of what is passed over
        accelerator, model = built(folder, 0.0, named)
        accelerator.load_state(None if named is None else folder / named)
        values = {float(value) for parameter in model.parameters() for value in parameter.flatten()}
        assert len(values) == 1, values
        return values.pop()


def crashed(folder: Path, point: int | None, ranks: int, victim: int, named: str | None) -> list[int]:
    """Save on forked ranks, one of which is killed; give how each ended, lines reached or minus the signal."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    pids, pipes = [], []
    for rank in range(ranks):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            world = World(
                rank=rank,
                world_size=ranks,
                local_rank=rank,
                local_world_size=ranks,
                master_port=port if ranks > 1 else 0,
            )
            try:
                with patched(world.to_env()):
                    lines = save(folder, NEW, point if rank == victim else None, world, named)
                os.write(write, str(lines).encode())
                os._exit(0)
            except BaseException as error:
                if not isinstance(error, (AccelError, RuntimeError)):
                    os.write(2, repr(error).encode())
                os._exit(1)
        os.close(write)
        pids.append(pid)
        pipes.append(read)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    texts = [os.read(pipe, 64).decode() for pipe in pipes]
    for pipe in pipes:
        os.close(pipe)
    return [int(text) if text else code for text, code in zip(texts, codes, strict=True)]


def main(base: Path, ranks: int, points: int, named: str | None) -> dict[str, Any]:
    """Kill a save at about ``points`` places; give what was found after each."""
    torch.set_num_threads(1)
    outcomes = []
    for victim in range(ranks):
        whole = base / f"whole{victim}"
        save(whole, OLD, None, World(), named)
        lines = crashed(whole, None, ranks, victim, named)[victim]
        assert found(whole, named) == NEW
        # At even distances, and all of the last ones, where the new one comes to be.
        for point in sorted({*range(1, lines + 1, max(1, lines // points)), *range(lines - 3, lines + 1)}):
            folder = base / f"{victim}-{point}"
            save(folder, OLD, None, World(), named)
            ended = crashed(folder, point, ranks, victim, named)
            assert ended[victim] == -signal.SIGKILL, (point, ended)
            value = found(folder, named)
            # What was left must not be in the way of the next save.
            save(folder, 3.0, None, World(), named)
            assert found(folder, named) == 3.0, point
            left = sorted(path.name for path in folder.rglob(".*"))
            outcomes.append((victim, point, value, left))
            shutil.rmtree(folder)
    return {"lines": lines, "outcomes": outcomes}


if __name__ == "__main__":
    base, ranks, points, named = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] or None
    print(json.dumps(main(base, ranks, points, named)))
