"""One job of many is stopped: it and no other, whatever it is doing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from io import BytesIO

import pytest
from PIL import Image

from playground.callback_receiver import Inbox, Message
from tests.chaos.load.around import PATIENCE, Around, Job, around
from tests.doubles.jobs import sdxl_job
from tests.doubles.reference_host import Handler
from tests.shared.serverless.conftest import SECRET


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Around]:
    """A painting worker with four jobs in hand, for all tests of this module."""
    with around(tmp_path_factory.mktemp("load")) as running:
        yield running


def beside(
    load: Around, stopped: Job, when: Callable[[], None], release: Callable[[], None], before: Callable[[], None] = lambda: None
) -> None:
    """Has three jobs done beside one that is stopped when it has come so far."""
    name = stopped["id"]
    neighbours = [sdxl_job(f"{name}-beside-{number}", seed=100 + number, num_images=3) for number in range(3)]
    alone = [load.alone(job) for job in neighbours]
    before()
    load.submit(stopped, *neighbours[:2])
    when()
    load.loop.gateway.stop(name)
    load.submit(*neighbours[2:])
    assert [load.files(load.output(job["id"])) for job in neighbours] == alone
    release()
    load.loop.gateway.wait_for(lambda: bool(load.told(name)) or load.loop.gateway.results(name) != [], PATIENCE)


def was_stopped(load: Around, job_id: str) -> None:
    (message,) = load.told(job_id)
    assert (message.payload["status"], message.payload["metadata"]["error_code"]) == ("failed", "CANCELLED")
    assert load.loop.gateway.results(job_id) == []


@pytest.mark.slow
def test_while_it_waits_for_the_gpu(load: Around) -> None:
    def keep_the_gpu_busy() -> None:
        load.submit(sdxl_job("busy", "slowly", steps=50))
        load.loop.wait_for_step("busy")

    beside(load, sdxl_job("waits"), lambda: load.wait_for_step_of("waits", "validate"), lambda: None, keep_the_gpu_busy)
    was_stopped(load, "waits")
    assert load.loop.steps("waits") == []
    assert load.output("busy")["status"] == "completed"


def test_while_its_reference_is_fetched(load: Around) -> None:
    asked, released = threading.Event(), threading.Event()
    content = BytesIO()
    Image.new("RGB", (64, 64), "red").save(content, "PNG")

    def slowly(handler: Handler) -> None:
        asked.set()
        released.wait(PATIENCE)
        handler.start(200, {"Content-Length": str(len(content.getvalue()))})
        handler.wfile.write(content.getvalue())

    url = load.storage.serve("/slow.png", slowly)
    beside(load, sdxl_job("fetches", image=url), lambda: _assert(asked.wait(PATIENCE)), released.set)
    was_stopped(load, "fetches")
    assert load.loop.steps("fetches") == []


def test_while_it_is_made(load: Around) -> None:
    beside(load, sdxl_job("made", "slowly", steps=50), lambda: load.loop.wait_for_step("made"), lambda: None)
    was_stopped(load, "made")
    assert len(load.loop.steps("made")) < 50


def test_while_it_is_uploaded(load: Around) -> None:
    load.uploads.hold("uploads")
    beside(load, sdxl_job("uploads", num_images=3), lambda: load.uploads.wait_for("uploads"), load.uploads.let_go)
    was_stopped(load, "uploads")


@pytest.mark.slow
def test_while_it_is_called_back_when_it_is_too_late(load: Around) -> None:
    asked, released = threading.Event(), threading.Event()

    def slowly(_message: Message) -> None:
        asked.set()
        released.wait(PATIENCE)

    with Inbox(SECRET, on_message=slowly) as inbox:
        load.inboxes.append(inbox)
        job = sdxl_job("told")
        job["input"]["callback_url"] = inbox.url
        beside(load, job, lambda: _assert(asked.wait(PATIENCE)), released.set)
        assert load.output("told")["status"] == "completed"
        (message,) = load.told("told")
        assert message.payload == load.output("told")


def _assert(condition: bool) -> None:
    assert condition
