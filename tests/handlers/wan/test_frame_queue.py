"""What one thread makes, another reads as it comes."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from handlers.wan.frame_queue import Relay
from shared.errors import Cancelled
from shared.jobs.assets import store
from shared.jobs.delivery.uploads import Parcel
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.lifecycle import STEPS
from shared.jobs.recipe import Clip
from shared.media.images import Pixels
from shared.storage.local_disk import LocalDisk
from shared.telemetry import Clock
from tests.handlers.conftest import wan as request


def parcel(folder: Path) -> Parcel:
    """A way to a folder that keeps nothing elsewhere."""
    return Parcel(LocalDisk(folder), None, lambda draft, payload: None)


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


def test_when_a_clip_cannot_be_written_its_maker_sees_it_at_once(tmp_path: Path) -> None:
    film: Relay[Pixels] = Relay()
    film.put(np.zeros((64, 64, 3), np.uint8))
    film.put(np.zeros((64, 96, 3), np.uint8))  # no frame of the same clip
    with pytest.raises(ValueError, match="one size") as caught:
        store(Clip(film, 8, 0), 0, request(), parcel(tmp_path), CancelToken(60), Clock(STEPS))
    assert film.left
    assert caught.value.__traceback__ is not None  # which would keep the reader alive


def test_when_an_extra_cannot_be_written_its_maker_sees_it_at_once(tmp_path: Path) -> None:
    film: Relay[Pixels] = Relay()
    for side in (64, 4):  # a picture of four pixels is no frame of the same clip
        film.put(np.zeros((64, side, 3), np.uint8))
    with pytest.raises((ValueError, OSError)) as caught:
        store(Clip(film, 8, 0, extras=("webm",)), 0, request(), parcel(tmp_path), CancelToken(60), Clock(STEPS))
    assert film.left
    assert caught.value.__traceback__ is not None
