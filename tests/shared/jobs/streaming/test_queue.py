"""StreamQueue: items in order, the end of the stream, the producer's error, and a consumer that stops early."""

from __future__ import annotations

from queue import Empty
from threading import Thread

import pytest

from shared.errors import Cancelled
from shared.jobs.streaming.queue import EndOfStream, StreamQueue


@pytest.fixture
def queue() -> StreamQueue[int]:
    return StreamQueue()


def test_items_arrive_in_order_while_they_are_produced(queue: StreamQueue[int]) -> None:
    items = iter(queue)
    with queue:
        queue.put(1)
        assert next(items) == 1
        queue.put(2)
        queue.put(3)
    assert list(items) == [2, 3]
    assert not queue.abandoned


def test_consumer_blocks_until_the_next_item(queue: StreamQueue[int]) -> None:
    read: list[int] = []
    consumer = Thread(target=lambda: read.extend(queue))
    consumer.start()
    with queue:
        for item in range(5):
            queue.put(item)
    consumer.join(60)
    assert read == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("error", "seen"), [(ZeroDivisionError, ZeroDivisionError), (GeneratorExit, Cancelled)])
def test_incomplete_stream_raises_after_its_last_item(queue: StreamQueue[int], error: type[BaseException], seen: type[Exception]) -> None:
    items = iter(queue)
    with pytest.raises(error), queue:  # noqa: PT012 - the consumer reads the item that preceded the error
        queue.put(1)
        raise error
    assert next(items) == 1
    with pytest.raises(seen):
        next(items)
    assert queue.abandoned


def test_producer_sees_that_the_consumer_has_stopped(queue: StreamQueue[int]) -> None:
    queue.put(1)
    items = iter(queue)
    next(items)
    assert not queue.abandoned
    del items  # as a video writer does when the disk is full
    assert queue.abandoned


def test_get_distinguishes_an_item_a_timeout_the_end_and_an_error(queue: StreamQueue[int]) -> None:
    queue.put(1)
    assert queue.get(timeout=0) == 1
    with pytest.raises(Empty):
        queue.get(timeout=0.001)
    queue.close()
    for _ in range(2):  # the end stays the end
        with pytest.raises(EndOfStream):
            queue.get()
    broken: StreamQueue[int] = StreamQueue()
    broken.close(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        broken.get()


def test_batches_join_the_items_that_have_arrived_and_end_without_delay(queue: StreamQueue[int]) -> None:
    for item in range(3):
        queue.put(item)
    batches = queue.batches(60)
    assert next(batches) == [0, 1, 2]
    for item in range(3, 5):
        queue.put(item)
    queue.close()
    assert list(batches) == [[3, 4]]


def test_batches_yield_an_empty_list_when_nothing_arrives_in_time(queue: StreamQueue[int]) -> None:
    batches = queue.batches(60, timeout=0.001)
    assert next(batches) == []
    queue.put(1)
    queue.close()
    assert list(batches) == [[1]]


def test_batches_yield_the_items_that_precede_an_error(queue: StreamQueue[int]) -> None:
    queue.put(1)
    queue.close(ZeroDivisionError())
    batches = queue.batches(60)
    assert next(batches) == [1]
    with pytest.raises(ZeroDivisionError):
        next(batches)
