"""Whatever ranks print, the browser is sent no more than its share."""

from __future__ import annotations

from notebook_accel.widgets.traffic import Budget


def test_a_burst_and_then_a_share_of_each_second():
    budget, sent = Budget(0.0), 0
    for tick in range(100 * 5):  # a hundred seconds at five updates a second
        sent += budget.allows("x" * 100_000, tick / 5) + budget.allows("x" * 9_000, tick / 5)
    assert 40_000 * 100 < budget.sent_bytes <= 80_000 + 100_000 * 100
    assert sent


def test_what_is_escaped_counts_twice():
    plain, escaped = Budget(0.0), Budget(0.0)
    assert plain.allows("x" * 50_000, 0.0)
    assert not escaped.allows('"' * 50_000, 0.0)
    assert escaped.allows("x", 0.0)
