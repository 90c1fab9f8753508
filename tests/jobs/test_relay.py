"""What one thread makes, another reads as it comes."""

from __future__ import annotations

from threading import Thread

import pytest

from shared.errors import Cancelled
from shared.jobs.relay import Relay


def test_pieces_arrive_in_order_while_they_are_made() -> None:
    relay: Relay[int] = Relay()
    reading = iter(relay)
    with relay:
        relay.put(1)
        assert next(reading) == 1
        relay.put(2)
        relay.put(3)
    assert list(reading) == [2, 3]
    assert not relay.left


def test_a_reader_waits_for_the_next_piece() -> None:
    relay: Relay[int] = Relay()
    read: list[int] = []
    reader = Thread(target=lambda: read.extend(relay))
    reader.start()
    with relay:
        for piece in range(5):
            relay.put(piece)
    reader.join(10)
    assert read == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("error", "seen"), [(ZeroDivisionError, ZeroDivisionError), (GeneratorExit, Cancelled)])
def test_a_sequence_that_broke_off_is_not_taken_for_a_whole_one(error: type[BaseException], seen: type[Exception]) -> None:
    relay: Relay[int] = Relay()
    reading = iter(relay)
    with pytest.raises(error), relay:  # noqa: PT012 - what comes before the error is read after it
        relay.put(1)
        raise error
    assert next(reading) == 1
    with pytest.raises(seen):
        next(reading)


def test_the_maker_can_see_that_nobody_reads_any_more() -> None:
    relay: Relay[int] = Relay()
    relay.put(1)
    reading = iter(relay)
    next(reading)
    assert not relay.left
    del reading  # as a writer of files does whose disk is full
    assert relay.left
