"""Deadlines on the monotonic clock."""

from shared.network import Deadline


def test_nested_deadline_never_exceeds_the_outer_one() -> None:
    assert Deadline(1.0).within(100.0).remaining <= 1.0
    assert Deadline(100.0).within(1.0).remaining <= 1.0


def test_a_deadline_expires_when_its_seconds_have_passed() -> None:
    now = 5.0
    deadline = Deadline(2.0, lambda: now)
    nested = deadline.within(1.5)
    assert (deadline.remaining, nested.remaining, deadline.expired) == (2.0, 1.5, False)
    now = 6.5
    assert (deadline.remaining, nested.remaining, deadline.expired, nested.expired) == (0.5, 0.0, False, True)
    now = 9.0
    assert (deadline.remaining, deadline.expired) == (0.0, True)
