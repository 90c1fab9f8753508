"""Points of a job and of an outbox delivery at which a worker is killed, in the order in which they occur."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from playground.callback_receiver import CannedResponse, ReceivedCallback
from tests.chaos.fault_injection.harness import Harness
from tests.chaos.fault_injection.image_files import image_bytes
from tests.chaos.fault_injection.injection import FAULTS
from tests.chaos.fault_injection.worker_handle import WorkerHandle
from tests.doubles.fake_storage import Fault, Handler, fails_with, stores
from tests.doubles.image_server import Handler as ImageHandler
from tests.doubles.image_server import answers

DIFFUSION = ("sdxl", "wan")
ALL = ("sdxl", "wan", "chat")


@dataclass
class KillScenario:
    """A job, and the worker that is killed during it."""

    harness: Harness
    worker: WorkerHandle
    job: dict[str, Any]

    @property
    def handler(self) -> str:
        """Handler of the job."""
        return self.worker.handler

    def kill(self) -> None:
        """Kills the worker now."""
        self.worker.process.kill()

    def kill_at_callback(self, status: str) -> None:
        """Kills the worker when a callback with this status has arrived and is not answered yet."""

        def on_callback(message: ReceivedCallback) -> None:
            if message.payload["status"] == status:
                self.kill()

        self.harness.on_callback = on_callback

    def fail_uploads(self) -> None:
        """Makes storage unavailable."""
        self.harness.storage.outage = fails_with(503)

    def fail_callbacks(self) -> None:
        """Makes the receiver unavailable."""
        self.harness.set_callback_responses(*[CannedResponse(503)] * 50)


@dataclass(frozen=True)
class KillPoint:
    """A point of a job at which its worker is killed.

    Attributes:
        description: Continues "killed …".
        arrange: Makes the worker die at that point.
        handlers: Handlers whose jobs have this point.
        multiple_images: Whether the job makes several images.
    """

    description: str
    arrange: Callable[[KillScenario], None]
    handlers: tuple[str, ...]
    multiple_images: bool = False

    @property
    def slug(self) -> str:
        """The description as part of a test id."""
        return _slug(self.description)


KILL_POINTS: list[KillPoint] = []
Arrange = Callable[[KillScenario], None]


def kill_point(description: str, *handlers: str, multiple_images: bool = False) -> Callable[[Arrange], Arrange]:
    """Registers the decorated function as a kill point."""

    def register(arrange: Arrange) -> Arrange:
        KILL_POINTS.append(KillPoint(description, arrange, handlers, multiple_images))
        return arrange

    return register


def _slug(description: str) -> str:
    return description.replace(" ", "-").replace(",", "")


@dataclass
class KillDuringUpload:
    """Storage behaviour that kills the uploading process at one upload and stores all others.

    Args:
        kill: Kills the process.
        skip: Number of matching uploads to store first.
        name: Match only uploads of a file with this name.
        half: Read half of the body first.
    """

    kill: Callable[[], None]
    skip: int = 0
    name: str = ""
    half: bool = False
    matched: list[str] = field(default_factory=list)

    def __call__(self, handler: Handler) -> None:
        """Serves one upload."""
        if not handler.path.endswith(self.name):
            stores(handler)
            return
        self.matched.append(handler.path)
        if len(self.matched) <= self.skip:
            stores(handler)
            return
        if self.half:
            handler.rfile.read(int(handler.headers["content-length"]) // 2)
        self.kill()
        handler.close_connection = True


@kill_point("after validation", *ALL)
def _(scenario: KillScenario) -> None:
    scenario.kill_at_callback("processing")


@kill_point("while fetching a reference", *DIFFUSION)
def _(scenario: KillScenario) -> None:
    def send_part_and_kill(handler: ImageHandler) -> None:
        handler.send_head(200, {"Content-Length": str(len(image_bytes()))})
        handler.wfile.write(image_bytes()[:100])
        scenario.kill()

    url = scenario.harness.storage.serve(f"/refs/{scenario.job['id']}", send_part_and_kill, answers(image_bytes()))
    request = scenario.job["input"]
    if scenario.handler == "wan":
        request["config"] |= {"reference_mode": "single", "image": url}
    else:
        request["metadata"] = {"reference_image_url": url, "reference_mode": "modify"}


@kill_point("in the fourth forward pass", *ALL)
def _(scenario: KillScenario) -> None:
    scenario.worker.inject("writer" if scenario.handler == "chat" else "denoiser", "kill", skip=3)


@kill_point("while decoding latents", "sdxl")
def _(scenario: KillScenario) -> None:
    scenario.worker.inject("decoder", "kill")


@kill_point("before encoding a file", *DIFFUSION)
def _(scenario: KillScenario) -> None:
    scenario.worker.inject("encoder", "kill")


@kill_point("after uploading half of the first file", *DIFFUSION, multiple_images=True)
def _(scenario: KillScenario) -> None:
    scenario.harness.storage.outage = KillDuringUpload(scenario.kill, half=True)


@kill_point("after uploading one of several files", *DIFFUSION, multiple_images=True)
def _(scenario: KillScenario) -> None:
    scenario.harness.storage.outage = KillDuringUpload(scenario.kill, skip=1)


@kill_point("before uploading callback.json", "sdxl")
def _(scenario: KillScenario) -> None:
    scenario.harness.storage.outage = KillDuringUpload(scenario.kill, name="callback.json")


@kill_point("after uploading half of callback.json", "sdxl")
def _(scenario: KillScenario) -> None:
    scenario.harness.storage.outage = KillDuringUpload(scenario.kill, name="callback.json", half=True)


@kill_point("while sending the callback", *ALL)
def _(scenario: KillScenario) -> None:
    scenario.kill_at_callback("completed")


@kill_point("while sending the result to RunPod", "sdxl", "chat")
def _(scenario: KillScenario) -> None:
    scenario.worker.runpod_api.on_result_dropped = scenario.kill


def _outbox_kill_point(description: str, operation: str, skip: int) -> None:
    """Registers a point while an entry of two files is written to the outbox: files, manifest, then the rename of the folder."""

    @kill_point(description, "stub")
    def _(scenario: KillScenario) -> None:
        scenario.fail_uploads()
        scenario.worker.inject(operation, "kill", skip=skip)


_outbox_kill_point("before opening the first outbox file", "outbox open", 0)
_outbox_kill_point("before syncing the first outbox file", "outbox fsync", 0)
_outbox_kill_point("before renaming the first outbox file", "outbox rename", 0)
_outbox_kill_point("before opening the second outbox file", "outbox open", 1)
_outbox_kill_point("before opening the manifest", "outbox open", 2)
_outbox_kill_point("before syncing the manifest", "outbox fsync", 2)
_outbox_kill_point("before renaming the entry", "outbox rename", 3)
_outbox_kill_point("before syncing the renamed entry", "outbox fsync", 4)


@kill_point("before syncing a pending callback", "wan", "chat")
def _(scenario: KillScenario) -> None:
    scenario.fail_callbacks()
    scenario.worker.inject("outbox fsync", "kill")


@kill_point("after writing a pending callback, before RunPod has the result", "stub")
def _(scenario: KillScenario) -> None:
    scenario.fail_callbacks()
    scenario.worker.runpod_api.on_result_dropped = scenario.kill


@dataclass(frozen=True)
class RedeliveryKillPoint:
    """A point of an outbox delivery at which the delivering worker is killed.

    Attributes:
        description: Continues "killed …".
        arrange: Makes the worker that starts next die at that point.
        handler: Handler of the pending result: a failed upload, or for chat a failed callback.
    """

    description: str
    arrange: Callable[[Harness], None]
    handler: str = "stub"

    @property
    def slug(self) -> str:
        """Handler and description as a test id."""
        return _slug(f"{self.handler} {self.description}")


def _kill_latest(harness: Harness) -> None:
    assert harness.latest_process is not None
    harness.latest_process.kill()


def _at_upload(*, skip: int = 0, half: bool = False) -> Callable[[Harness], None]:
    def arrange(harness: Harness) -> None:
        harness.storage.outage = _uploads_only(KillDuringUpload(lambda: _kill_latest(harness), skip=skip, half=half))

    return arrange


def _uploads_only(behaviour: KillDuringUpload) -> Fault:
    """Exempts GET requests: a starting worker checks the bucket."""

    def behave(handler: Handler) -> None:
        if handler.command == "GET":
            handler.look_up()
        else:
            behaviour(handler)

    return behave


def _at_callback(harness: Harness) -> None:
    harness.on_callback = lambda _message: _kill_latest(harness)


def _while_removing_the_entry(harness: Harness) -> None:
    """Injects the fault when the callback arrives: its response is followed by the removal of the entry."""

    def on_callback(_message: ReceivedCallback) -> None:
        assert harness.latest_process is not None
        pending = [{"target": "outbox remove", "fault": "kill", "times": 1, "skip": 1}]
        (harness.latest_process.folder / FAULTS).write_text(json.dumps(pending))

    harness.on_callback = on_callback


REDELIVERY_KILL_POINTS = [
    RedeliveryKillPoint("after uploading half of a file", _at_upload(half=True)),
    RedeliveryKillPoint("after uploading one of two files", _at_upload(skip=1)),
    RedeliveryKillPoint("while sending the callback", _at_callback),
    RedeliveryKillPoint("while sending the callback", _at_callback, "chat"),
    RedeliveryKillPoint("while removing the delivered entry", _while_removing_the_entry),
]
