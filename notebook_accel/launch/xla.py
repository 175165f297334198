"""Runs on TPU chips: ``torch_xla``'s xmp.spawn, under a supervisor that is a fresh interpreter.

Nothing here or in the kernel starts the XLA runtime, so a notebook can launch as often as it wants.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from notebook_accel import environment
from notebook_accel.errors import NotAvailableError
from notebook_accel.launch import compilations, tpu_environment
from notebook_accel.launch.channels import Channels
from notebook_accel.launch.job import Call, Job, make_job
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.spawn import start_supervisor
from notebook_accel.launch.supervised import Parent, SupervisedSpawner
from notebook_accel.wire.control import StartRun


class XlaSpawner(SupervisedSpawner):
    """Starts ranks through xmp.spawn."""

    def pack(self, plan: LaunchPlan, call: Call) -> Job:
        """Pickle the call; see ``Spawner.pack``.

        Raises:
            NotAvailableError: torch_xla is missing, this process holds the chips, or those of other machines belong to
                the same slice.
        """
        if importlib.util.find_spec("torch_xla") is None:
            what = "there are TPU chips here, but neither torch_xla nor torch_tpu, which drive them, is installed"
            hint = (
                'pip install "torch_xla[tpu]" in the version of the installed torch (2.9 for 2.9), or, with torch 2.11 '
                'or later, pip install torch_tpu (experimental here); or devices="cpu"'
            )
            raise NotAvailableError(what, hint)
        found = environment.current()
        if plan.environ["PJRT_DEVICE"] == "TPU":
            tpu_environment.check_free(found)
        tpu_environment.check_hosts(found)
        job = make_job(call, plan.config.by_value)
        return replace(job, notices=(*job.notices, *tpu_environment.cleaned(found)[1]))

    def begin(self, start: StartRun, channels: Channels, job: Job, plan: LaunchPlan) -> tuple[Parent, list[str]]:
        """Start the supervisor; see ``SupervisedSpawner.begin``."""
        compilations.bound()
        variables, _ = tpu_environment.cleaned(start.environ)
        variables[environment.COMPILATIONS] = str(compilations.folder_of_this_version())
        return start_supervisor("xmp", [plan.start_method], replace(start, environ=variables), channels, job)
