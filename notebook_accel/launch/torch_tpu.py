"""Runs on TPU chips through ``torch_tpu``, EXPERIMENTAL: written to its Python sources, never run on a TPU."""

from __future__ import annotations

from dataclasses import replace

from notebook_accel import environment
from notebook_accel.launch import tpu_environment
from notebook_accel.launch.channels import Channels
from notebook_accel.launch.job import Call, Job
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.spawn import SpawnSpawner, start_supervisor
from notebook_accel.launch.supervised import Parent
from notebook_accel.wire.control import StartRun

_EXPERIMENTAL = "this TPU is driven by torch_tpu, which is experimental: it has not been run on a TPU with this package"


class TorchTpuSpawner(SpawnSpawner):
    """Starts ranks as fresh interpreters, in the environment that torch_tpu makes for them."""

    def pack(self, plan: LaunchPlan, call: Call) -> Job:
        """Pickle the call; see ``Spawner.pack``.

        Raises:
            NotAvailableError: this process holds the chips, or those of other machines belong to the same slice.
        """
        found = environment.current()
        tpu_environment.check_free(found)
        tpu_environment.check_hosts(found)
        job = super().pack(plan, call)
        return replace(job, notices=(*job.notices, _EXPERIMENTAL, *tpu_environment.cleaned(found)[1]))

    def begin(self, start: StartRun, channels: Channels, job: Job, _plan: LaunchPlan) -> tuple[Parent, list[str]]:
        """Start the supervisor; see ``SupervisedSpawner.begin``."""
        variables, _ = tpu_environment.cleaned(start.environ)
        return start_supervisor("torch_tpu", [], replace(start, environ=variables), channels, job)
