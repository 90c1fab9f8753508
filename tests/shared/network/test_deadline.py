"""Deadlines on the monotonic clock."""

from shared.network import Deadline


def test_nested_deadline_never_exceeds_the_outer_one() -> None:
    assert Deadline(1.0).within(100.0).remaining <= 1.0
    assert Deadline(100.0).within(1.0).remaining <= 1.0
    assert Deadline(0.0).remaining == 0.0
    assert Deadline(0.0).expired
    assert not Deadline(1.0).expired
