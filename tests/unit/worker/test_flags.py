from __future__ import annotations

import mmap
import os

from notebook_accel.worker.flags import Flags


def test_each_side_sees_what_the_other_has_written():
    flags = Flags(mmap.mmap(-1, mmap.PAGESIZE))
    assert not flags.take_order(1), "nobody has ordered it"
    flags.order_interrupt(1)
    pid = os.fork()
    if pid == 0:
        heard = flags.take_order(1) and not flags.take_order(0)
        flags.set_finished(2)
        os._exit(0 if heard else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert [flags.acknowledged(rank) for rank in range(3)] == [False, True, False]
    assert [flags.finished(rank) for rank in range(3)] == [False, False, True]
