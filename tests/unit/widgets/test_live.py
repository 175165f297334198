from __future__ import annotations

import threading

from notebook_accel.widgets.live import LatestFew, Refreshing


def test_it_goes_on_until_it_is_stopped():
    called = threading.Semaphore(0)

    def refresh() -> bool:
        called.release()
        return True

    refreshing = Refreshing(refresh, 0.01)
    refreshing.start()
    refreshing.start()
    assert all(called.acquire(timeout=10) for _ in range(3))
    assert refreshing.is_running
    refreshing.stop()
    assert not refreshing.is_running
    refreshing.start()
    while called.acquire(blocking=False):
        pass
    assert called.acquire(timeout=10), "it can begin again"
    refreshing.stop()


def test_it_ends_by_itself_where_the_function_says_so_or_fails():
    for refresh in (lambda: False, lambda: 1 / 0):
        refreshing = Refreshing(refresh, 0.01)
        refreshing.start()
        refreshing._thread.join(10)
        assert not refreshing.is_running


def test_it_may_be_stopped_from_within():
    ended = threading.Event()

    def refresh() -> bool:
        refreshing.stop()
        ended.set()
        return True

    refreshing = Refreshing(refresh, 0.01)
    refreshing.start()
    assert ended.wait(10)
    refreshing._thread.join(10)
    assert not refreshing.is_running


def test_the_latest_few_go_on():
    few = LatestFew(2)
    many = [Refreshing(lambda: True, 60) for _ in range(3)]
    for each in many:
        few.start(each)
    assert [each.is_running for each in many] == [False, True, True]
    few.start(many[0])
    assert [each.is_running for each in many] == [True, False, True]
    for each in many:
        few.stop(each)
    assert not any(each.is_running for each in many)
