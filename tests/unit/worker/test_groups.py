from __future__ import annotations

from tests.unit.worker.forks import in_a_fresh_process

MEET = """
import gc, os, weakref
import torch, torch.distributed as dist
from torch.distributed import distributed_c10d
from notebook_accel.worker import groups

store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port),
                  TORCHELASTIC_USE_AGENT_STORE="True", GLOO_SOCKET_IFNAME="lo")
plain, documented = dist.destroy_process_group, dist.destroy_process_group.__doc__
groups.prepare_process_groups()
assert dist.destroy_process_group is distributed_c10d.destroy_process_group is not plain
assert dist.destroy_process_group.__doc__ == documented

for number in (1, 2, 3):
    dist.init_process_group("gloo")
    meeting = distributed_c10d._get_default_store()
    assert not meeting.check(["mark"]), "the keys of a group are its own"
    meeting.set("mark", str(number))
    extra = dist.new_group([0])
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2), process_group=extra)
    model(torch.ones(1, 2)).sum().backward()
    alive = [weakref.ref(group) for group in distributed_c10d._world.pg_map]
    assert len(alive) == 2
    if number == 2:
        dist.destroy_process_group(extra)
        assert dist.is_initialized()
    dist.destroy_process_group()
    assert not dist.is_initialized()
    del extra, model, meeting
    gc.collect()
    assert all(group() is not None for group in alive), "the last reference is ours"
assert len({id(group) for group in groups._kept}) == 6
try:
    dist.destroy_process_group()
except (AssertionError, ValueError):
    print("a group that does not exist is refused as before", flush=True)
os._exit(0)
"""


def test_groups_follow_each_other_at_one_store_and_stay_alive():
    assert in_a_fresh_process(MEET) == "a group that does not exist is refused as before"
