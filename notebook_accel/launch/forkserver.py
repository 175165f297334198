"""``start_method="forkserver"``: ranks forked from the warm zygote, whatever the kernel itself has done before."""

from __future__ import annotations

import atexit
import os
from dataclasses import replace

from notebook_accel.launch.channels import Channels
from notebook_accel.launch.job import Call, Job, make_job
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.supervised import Parent, SupervisedSpawner
from notebook_accel.launch.zygote import ZygoteKeeper
from notebook_accel.wire.control import StartRun

_keeper = ZygoteKeeper()
atexit.register(_keeper.shut_down)
os.register_at_fork(after_in_child=_keeper.forget)


def warm(preload: tuple[str, ...] = ()) -> list[str]:
    """Start the zygote ahead of the first launch; see ``ZygoteKeeper.warm``."""
    return _keeper.warm(preload)


def shut_down() -> None:
    """End the zygote; the next launch starts a new one."""
    _keeper.shut_down()


class ForkserverSpawner(SupervisedSpawner):
    """Starts ranks through the zygote."""

    def pack(self, plan: LaunchPlan, call: Call) -> Job:
        """Pickle the call and have a zygote that fits, which may take a while; see ``Spawner.pack``."""
        job = make_job(call, plan.config.by_value)
        try:
            notices = _keeper.warm(plan.config.preload)
        except BaseException:
            job.close()
            raise
        return replace(job, notices=(*job.notices, *notices))

    def begin(self, start: StartRun, channels: Channels, job: Job, plan: LaunchPlan) -> tuple[Parent, list[str]]:
        """Send the run to the zygote; see ``SupervisedSpawner.begin``."""
        descriptors = [channels.supervisor_end.fileno(), *channels.theirs, *job.files]
        return _keeper.launch(plan.config.preload, start, descriptors)
