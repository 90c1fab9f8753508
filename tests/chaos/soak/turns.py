"""One job of a soak, the fault that is drawn for it, and how it may end then."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.faults.running import Running
from tests.chaos.faults.world import World, chat, sdxl, wan
from tests.doubles.reference_host import Behaviour

HANDLERS = ("sdxl", "wan", "chat")
PICTURES = ("sdxl", "wan")
COMPLETED, STOPPED, KILLED = "completed", "stopped", "killed"
NETWORKS = {"sdxl": "denoiser", "wan": "denoiser", "chat": "writer"}
"""Whose calls are steps of the work."""


@dataclass
class Turn:
    """One job, while its fault is being prepared.

    Attributes:
        job: As it will be handed out.
        deliveries: How often.
        refused: Whether it must fail before any work.
        meanwhile: Done when the worker has it in hand.
        afterwards: Takes off what `World.calm` does not.
    """

    world: World
    running: Running
    chance: random.Random
    job: dict[str, Any]
    deliveries: int = 1
    refused: bool = False
    meanwhile: Callable[[], object] = lambda: None
    afterwards: ExitStack = field(default_factory=ExitStack)

    @property
    def id(self) -> str:
        job_id: str = self.job["id"]
        return job_id

    @property
    def handler(self) -> str:
        return self.running.handler

    @property
    def network(self) -> str:
        return NETWORKS[self.handler]

    def ask(self, **config: Any) -> None:
        """Asks for something else."""
        request = self.job["input"]
        (request if self.handler == "chat" else request["config"]).update(config)

    def refer(self, *behaviours: Behaviour, url: str = "") -> None:
        """Lets the job begin with a picture of a host that behaves so, or with another URL."""
        url = url or self.world.storage.serve(f"/refs/{self.id}", *behaviours)
        if self.handler == "wan":
            self.ask(reference_mode="single", image=url)
        else:
            self.job["input"]["metadata"] = {"reference_image_url": url, "reference_mode": "modify"}


@dataclass(frozen=True)
class Draw:
    """A fault that a job may meet.

    Attributes:
        number: Of the case that it comes from.
        ends: How its job may end: `completed`, `stopped`, `killed`, or a code.
        handlers: Whose jobs may meet it.
        exits: What its worker ends with, where it ends its worker.
        weight: How often it is drawn, compared with others.
    """

    number: str
    ends: frozenset[str]
    prepare: Callable[[Turn], None]
    handlers: tuple[str, ...] = HANDLERS
    exits: int | None = None
    weight: float = 1.0

    @property
    def name(self) -> str:
        return self.prepare.__name__.replace("_", " ")


DRAWS: list[Draw] = []


def draw(
    number: str, *ends: str, handlers: tuple[str, ...] = HANDLERS, exits: int | None = None, weight: float = 1.0
) -> Callable[[Callable[[Turn], None]], Callable[[Turn], None]]:
    """Registers a fault."""

    def register(prepare: Callable[[Turn], None]) -> Callable[[Turn], None]:
        DRAWS.append(Draw(number, frozenset(ends), prepare, handlers, exits, weight))
        return prepare

    return register


def good_job(handler: str, job_id: str, world: World, chance: random.Random) -> dict[str, Any]:
    """A job as on any other day: pictures, a clip, an answer, each of some sizes. `paint` makes pictures without a model."""
    seed = chance.randrange(2**31)
    if handler == "paint":
        return sdxl(job_id, seed=seed)
    if handler == "sdxl":
        size = chance.choice(("64x64", "96x64"))
        return sdxl(job_id, seed=seed, num_images=chance.choice((1, 1, 3)), resolution=size, output_format=chance.choice(("png", "webp")))
    if handler == "wan":
        return wan(job_id, seed=seed, frames=chance.choice((1, 6, 9)))
    return chat(job_id, world.inbox.url, seed=seed, max_tokens=chance.choice((4, 8, 16)), temperature=chance.choice((0, 0.7)))


@contextlib.contextmanager
def calm_again(turn: Turn) -> Iterator[None]:
    """Takes the fault off at the end."""
    try:
        yield
    finally:
        turn.afterwards.close()
        turn.world.calm()
        (turn.running.folder / "sabotage.json").unlink(missing_ok=True)
