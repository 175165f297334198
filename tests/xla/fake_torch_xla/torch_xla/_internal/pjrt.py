"""FAKE: one process for each device, one thread in it, as the real one."""

import concurrent.futures
import functools
import os

import torch.multiprocessing

from torch_xla import _world


def _in_thread(number, count, function):
    os.environ["PJRT_LOCAL_PROCESS_RANK"], os.environ["PJRT_LOCAL_PROCESS_COUNT"] = str(number), str(count)
    if os.environ.get("FAKE_XLA_ABORTS") == str(number):
        os.write(2, b"TPU initialization failed: made up\n")
        os.abort()
    _world.start()
    devices = range(int(os.environ.get("FAKE_XLA_DEVICES", "1")))
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(devices)) as threads:
        return list(threads.map(lambda _: function(_world.ordinal()), devices))


def run_multiprocess(function, start_method):
    count = int(os.environ.get("FAKE_XLA_PROCESSES", "1"))
    context = torch.multiprocessing.get_context(start_method)
    with concurrent.futures.ProcessPoolExecutor(max_workers=count, mp_context=context) as processes:
        work = functools.partial(_in_thread, count=count, function=function)
        return list(processes.map(work, range(count)))
