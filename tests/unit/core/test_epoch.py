from __future__ import annotations

from notebook_accel.core.epoch import EpochLedger, EpochWatch, Round

FULL = Round((2, 2), (2, 2))
PADDED = Round((2, 2), (2, 1))
LAST = [True, True, True, False]


def begun(watch: EpochWatch, *its_rounds: Round, read: int | None = None) -> EpochLedger:
    ledger = EpochLedger(watch)
    for each in its_rounds:
        ledger.announce(each)
    for _ in range(len(its_rounds) if read is None else read):
        ledger.advance()
    return ledger


def kept(watch: EpochWatch, *rows: int) -> list[bool] | None:
    mask = watch.mask(rows if len(rows) > 1 else rows * 2)
    return None if mask is None else mask.tolist()


def test_outside_of_all_loops_nothing_is_known():
    watch = EpochWatch()
    assert watch.remaining is None
    assert kept(watch, 2) is None


def test_the_batch_in_hand_is_recognised_by_its_rows():
    watch = EpochWatch()
    begun(watch, FULL, PADDED, read=1)
    assert kept(watch, 2) is None, "all are real"
    assert watch.remaining == 1
    watch = EpochWatch()
    begun(watch, FULL, PADDED)
    assert kept(watch, 2) == LAST
    assert kept(watch, 80) is None


def test_the_whole_epoch_is_recognised_after_the_loop():
    watch = EpochWatch()
    begun(watch, FULL, FULL, PADDED).close()
    assert kept(watch, 6) == [True] * 11 + [False]
    assert kept(watch, 2) == LAST
    assert kept(watch, 5) is None
    assert watch.remaining is None


def test_a_loop_inside_a_loop_is_the_one_in_hand():
    watch = EpochWatch()
    outer = begun(watch, Round((3, 3), (3, 3)), Round((3, 3), (3, 3)), read=1)
    inner = begun(watch, PADDED)
    assert kept(watch, 2) == LAST
    inner.close()
    assert kept(watch, 2) == LAST, "just ended"
    assert kept(watch, 3) is None
    assert watch.remaining == 1
    outer.advance()
    assert kept(watch, 2) is None, "the inner loop is over"


def test_the_outer_batch_is_not_cut_by_the_inner_loops_last_one():
    watch = EpochWatch()
    begun(watch, FULL, FULL, read=1)
    begun(watch, FULL, PADDED).close()
    assert kept(watch, 2) is None


def test_ranks_may_have_different_rows():
    watch = EpochWatch()
    begun(watch, FULL, Round((2, 1), (1, 1)))
    assert kept(watch, 2) is None
    assert kept(watch, 2, 1) == [True, False, True]
    assert kept(watch, 4, 3) == [True, True, True, False, True, True, True]


def test_an_epoch_takes_little_room():
    ledger = begun(EpochWatch(), *[Round((2, 2), (2, 2)) for _ in range(1000)], PADDED)
    assert ledger._counts == [1000, 1]


def test_rows_of_an_epoch_with_an_unknown_round_are_left_alone():
    ledger = EpochLedger()
    ledger.announce(Round((2, 2), (2, 1)), 2)
    for _ in range(3):
        ledger.advance()
    assert ledger.epoch_mask((6, 6)) is None
    assert ledger.remaining == 0
