from __future__ import annotations

import threading

from torch.distributed import HashStore

from notebook_accel.backends.host_exchange import HostExchange
from notebook_accel.world import World


def test_alone_it_answers_at_once():
    assert HostExchange.of_run(World()).gather(b"mine") == [b"mine"]


def test_bytes_come_by_rank_and_leave_nothing_old():
    store = HashStore()
    found: dict[int, list[list[bytes]]] = {}

    def one(rank: int) -> None:
        exchange = HostExchange(World(rank=rank, world_size=3), store)
        found[rank] = [exchange.gather(bytes([rank, number]) * number) for number in range(5)]

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [[bytes([rank, number]) * number for rank in range(3)] for number in range(5)]
    assert [found[rank] for rank in range(3)] == [expected] * 3
    assert store.num_keys() <= 3
