"""The moments of a job at which its worker is killed, in the order in which a job lives through them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from playground.callback_receiver import Answer, Message
from tests.chaos.faults.cases_b import picture
from tests.chaos.faults.running import Running
from tests.chaos.faults.world import World
from tests.doubles.reference_host import Handler as Reference
from tests.doubles.reference_host import answers
from tests.doubles.storage_server import Fault, Handler, fails_with, stores

PICTURES = ("sdxl", "wan")
ALL = ("sdxl", "wan", "chat")


@dataclass
class Scene:
    """A job that will not live to its end.

    Attributes:
        victim: Who has it in hand and will be killed.
        job: As it is handed out.
    """

    world: World
    victim: Running
    job: dict[str, Any]

    @property
    def handler(self) -> str:
        return self.victim.handler

    def kill(self) -> None:
        self.victim.process.kill()

    def at_callback(self, status: str) -> None:
        """Kills while a callback of this status is on its way: it has arrived, and is not answered."""

        def kill(message: Message) -> None:
            if message.payload["status"] == status:
                self.kill()

        self.world.on_callback = kill

    def storage_away(self) -> None:
        self.world.storage.outage = fails_with(503)

    def receiver_away(self) -> None:
        self.world.answers(*[Answer(503)] * 50)


@dataclass(frozen=True)
class Moment:
    """When it is.

    Attributes:
        words: What the worker does then.
        arrange: Sees to it that it is killed then.
        handlers: Whose jobs have this moment.
        several: Whether the job makes several pictures.
    """

    words: str
    arrange: Callable[[Scene], None]
    handlers: tuple[str, ...]
    several: bool = False


MOMENTS: list[Moment] = []
Arrange = Callable[[Scene], None]


def moment(words: str, *handlers: str, several: bool = False) -> Callable[[Arrange], Arrange]:
    """Registers a moment."""

    def register(arrange: Arrange) -> Arrange:
        MOMENTS.append(Moment(words, arrange, handlers, several))
        return arrange

    return register


@dataclass
class Dying:
    """Storage, and the death of its caller at one of the uploads.

    Args:
        kill: Kills.
        spares: So many uploads are stored before.
        name: Only an upload of a file of this name counts.
        half: Half of the body is read before.
    """

    kill: Callable[[], None]
    spares: int = 0
    name: str = ""
    half: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, handler: Handler) -> None:
        """Serves one upload."""
        if not handler.path.endswith(self.name):
            stores(handler)
            return
        self.seen.append(handler.path)
        if len(self.seen) <= self.spares:
            stores(handler)
            return
        if self.half:
            handler.rfile.read(int(handler.headers["content-length"]) // 2)
        self.kill()
        handler.close_connection = True


@moment("it has looked at the request", *ALL)
def _(scene: Scene) -> None:
    scene.at_callback("processing")


@moment("it fetches a reference", *PICTURES)
def _(scene: Scene) -> None:
    def dies(handler: Reference) -> None:
        handler.start(200, {"Content-Length": str(len(picture()))})
        handler.wfile.write(picture()[:100])
        scene.kill()

    url = scene.world.storage.serve(f"/refs/{scene.job['id']}", dies, answers(picture()))
    request = scene.job["input"]
    if scene.handler == "wan":
        request["config"] |= {"reference_mode": "single", "image": url}
    else:
        request["metadata"] = {"reference_image_url": url, "reference_mode": "modify"}


@moment("it computes", *ALL)
def _(scene: Scene) -> None:
    scene.victim.sabotage("writer" if scene.handler == "chat" else "denoiser", "kill", after=3)


@moment("it decodes", "sdxl")
def _(scene: Scene) -> None:
    scene.victim.sabotage("decoder", "kill")


@moment("it is about to encode", *PICTURES)
def _(scene: Scene) -> None:
    scene.victim.sabotage("encoder", "kill")


@moment("it has sent half of the first of several files", *PICTURES, several=True)
def _(scene: Scene) -> None:
    scene.world.storage.outage = Dying(scene.kill, half=True)


@moment("it has stored one of several files", *PICTURES, several=True)
def _(scene: Scene) -> None:
    scene.world.storage.outage = Dying(scene.kill, spares=1)


@moment("it has stored all files, and not callback.json", "sdxl")
def _(scene: Scene) -> None:
    scene.world.storage.outage = Dying(scene.kill, name="callback.json")


@moment("it has sent half of callback.json", "sdxl")
def _(scene: Scene) -> None:
    scene.world.storage.outage = Dying(scene.kill, name="callback.json", half=True)


@moment("its callback is on its way", *ALL)
def _(scene: Scene) -> None:
    scene.at_callback("completed")


@moment("its result is on its way to RunPod", "sdxl", "chat")
def _(scene: Scene) -> None:
    scene.victim.gateway.loses_results = scene.kill


def _keeping(words: str, event: str, after: int) -> None:
    """With storage away: two files, the entry, and the folder under its own name. No matter who made the picture."""

    @moment(f"it keeps a result, and {words}", "paint")
    def _(scene: Scene) -> None:
        scene.storage_away()
        scene.victim.sabotage(event, "kill", after=after)


_keeping("has begun no file", "outbox open", 0)
_keeping("has written a file that is not on the disk", "outbox fsync", 0)
_keeping("has not given a file its name", "outbox rename", 0)
_keeping("has one file of two", "outbox open", 1)
_keeping("has all files and no entry", "outbox open", 2)
_keeping("has written the entry, which is not on the disk", "outbox fsync", 2)
_keeping("has an entry that is not complete", "outbox rename", 3)
_keeping("has a complete entry that is not on the disk", "outbox fsync", 4)


@moment("it keeps a callback that is not on the disk", "wan", "chat")
def _(scene: Scene) -> None:
    scene.receiver_away()
    scene.victim.sabotage("outbox fsync", "kill")


@moment("it has kept a callback, and not told RunPod", "paint")
def _(scene: Scene) -> None:
    scene.receiver_away()
    scene.victim.gateway.loses_results = scene.kill


@dataclass(frozen=True)
class Later:
    """A moment of the delivery of what an earlier worker has kept.

    Attributes:
        words: What the worker does then.
        arrange: Lets the worker that is started next be killed then.
        handler: Whose result was kept: with storage away, or chat's with the receiver away.
    """

    words: str
    arrange: Callable[[World], None]
    handler: str = "paint"


def _kill_newest(world: World) -> None:
    assert world.newest is not None
    world.newest.kill()


def _at_upload(**how: Any) -> Callable[[World], None]:
    def arrange(world: World) -> None:
        world.storage.outage = _only_uploads(world, Dying(lambda: _kill_newest(world), **how))

    return arrange


def _only_uploads(world: World, dying: Dying) -> Fault:
    """A worker that starts looks at the bucket first."""

    def behave(handler: Handler) -> None:
        if handler.command == "GET":
            handler.look_up()
        else:
            dying(handler)

    return behave


def _at_callback(world: World) -> None:
    world.on_callback = lambda _message: _kill_newest(world)


def _while_it_tidies_up(world: World) -> None:
    """The callback is answered, and then the entry is removed."""

    def order(_message: Message) -> None:
        assert world.newest is not None
        orders = [{"where": "outbox remove", "what": "kill", "times": 1, "after": 1}]
        (world.newest.folder / "sabotage.json").write_text(json.dumps(orders))

    world.on_callback = order


LATER = [
    Later("it has sent half of a file", _at_upload(half=True)),
    Later("it has stored one of two files", _at_upload(spares=1)),
    Later("its callback is on its way", _at_callback),
    Later("its callback is on its way", _at_callback, "chat"),
    Later("it has been told that all is well, and removes what it had kept", _while_it_tidies_up),
]
