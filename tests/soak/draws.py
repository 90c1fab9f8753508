"""What a job may meet: the faults of `tests/faults`, as far as any job may meet them, and how a job may end that has met one."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from playground.inbox import Answer
from tests.doubles.reference_host import Behaviour, answers, redirects
from tests.doubles.storage_server import Handler, fails_with, hangs, says, stores
from tests.faults import cases_a, cases_b
from tests.faults.cases_c import filled
from tests.faults.cases_d import HALF_ANSWERS, database_stopped, dies_reading
from tests.faults.cases_e import LASTING, PASSING
from tests.faults.world import Running, World, chat, sdxl, wan

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


# A. What a job brings


@draw("F01", "VALIDATION_ERROR", handlers=PICTURES)
def no_input(turn: Turn) -> None:
    turn.job["input"], turn.refused = turn.chance.choice(cases_a.NO_INPUTS), True


@draw("F02", "VALIDATION_ERROR")
def a_wrong_number(turn: Turn) -> None:
    name = "max_tokens" if turn.handler == "chat" else "steps"
    turn.ask(**{name: turn.chance.choice(cases_a.WRONG_NUMBERS)})
    turn.refused = True


@draw("F03", "VALIDATION_ERROR")
def too_much(turn: Turn) -> None:
    bombs: dict[str, dict[str, Any]] = {"sdxl": {"resolution": "1000000x1000000"}, "wan": {"frames": 10_000}, "chat": {"max_tokens": 10**6}}
    turn.ask(**bombs[turn.handler])
    turn.refused = True


@draw("F04", "VALIDATION_ERROR")
def an_id_that_leads_elsewhere(turn: Turn) -> None:
    turn.job["input"]["user_id"], turn.refused = turn.chance.choice(cases_a.WRONG_IDS), True


@draw("F05", COMPLETED, "VALIDATION_ERROR")
def an_odd_prompt(turn: Turn) -> None:
    prompt = turn.chance.choice(cases_a.ODD_PROMPTS)
    if turn.handler == "chat":
        turn.ask(messages=[{"role": "user", "content": prompt[:1000]}])
    else:
        turn.job["input"]["prompt"] = prompt


@draw("F06", "VALIDATION_ERROR", "MODEL_UNAVAILABLE")
def a_name_of_no_model(turn: Turn) -> None:
    name = turn.chance.choice(cases_a.STRANGE_NAMES)
    turn.ask(**({"model": name} if turn.handler == "chat" else {"loras": [{"name": name}]}))
    turn.refused = True


@draw("F07", "VALIDATION_ERROR", handlers=PICTURES)
def a_hostile_receiver(turn: Turn) -> None:
    turn.job["input"]["callback_url"], turn.refused = turn.chance.choice(cases_a.HOSTILE_URLS), True


@draw("F08", COMPLETED)
def the_same_job_twice(turn: Turn) -> None:
    turn.deliveries = 2


# B. References


@draw("F09", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def an_address_that_is_not_public(turn: Turn) -> None:
    turn.refer(url=f"https://{turn.chance.choice(cases_b.NOT_PUBLIC)}/a.png")
    turn.refused = True


@draw("F11", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_hostile_redirect(turn: Turn) -> None:
    turn.refer(redirects(turn.chance.choice(cases_b.TARGETS)))
    turn.refused = True


@draw("F12", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_body_without_end(turn: Turn) -> None:
    turn.refer(turn.chance.choice(cases_b.TOO_MUCH))
    turn.refused = True


@draw("F13", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_host_that_drips(turn: Turn) -> None:
    turn.refer(turn.chance.choice([*cases_b.SLOW.values()]))
    turn.refused = True


@draw("F15", COMPLETED, "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_host_in_trouble(turn: Turn) -> None:
    turn.refer(turn.chance.choice(cases_b.troubles()), answers(cases_b.picture()))


@draw("F16", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def no_picture(turn: Turn) -> None:
    turn.refer(answers(turn.chance.choice(cases_b.no_pictures()), headers={"Content-Type": "image/png"}))
    turn.refused = True


@draw("F18", COMPLETED, "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_picture_with_flipped_bits(turn: Turn) -> None:
    content = bytearray(cases_b.picture(turn.chance.choice(("PNG", "JPEG", "WEBP"))))
    for _ in range(turn.chance.randint(1, 8)):
        content[turn.chance.randrange(len(content))] ^= 1 << turn.chance.randrange(8)
    turn.refer(answers(bytes(content[: turn.chance.randint(1, len(content))])))


@draw("F20", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_bad_data_url(turn: Turn) -> None:
    turn.refer(url=turn.chance.choice(list(cases_b.BAD_DATA)))
    turn.refused = True


# C. The GPU, the machine, RunPod


@draw("F21", COMPLETED, "OOM_ERROR", weight=2)
def no_memory_once(turn: Turn) -> None:
    turn.running.sabotage(turn.network, "oom")


@draw("F21", "OOM_ERROR")
def no_memory_at_all(turn: Turn) -> None:
    turn.running.sabotage(turn.network, "oom", times=1000)


@draw("F22", COMPLETED, handlers=PICTURES, weight=2)
def no_memory_in_the_decoder(turn: Turn) -> None:
    turn.running.sabotage("decoder", "oom", times=2)


@draw("F25", "GENERATION_ERROR", handlers=PICTURES, weight=2)
def an_unusable_result(turn: Turn) -> None:
    where, what = turn.chance.choice((("denoiser result", "nan"), ("decoder result", "nan"), ("decoder result", "black")))
    turn.running.sabotage(where, what, times=1000)


@draw("F26", "INTERNAL_ERROR", handlers=("wan",), weight=2)
def a_full_disk(turn: Turn) -> None:
    turn.ask(frames=6)
    turn.afterwards.enter_context(filled(turn.running.temporary))


@draw("F27", "INTERNAL_ERROR", handlers=("wan",), weight=2)
def an_encoder_that_fails(turn: Turn) -> None:
    turn.ask(frames=6)
    turn.running.sabotage("encoder", "fails")


def _slowly(turn: Turn) -> None:
    """So that what comes meanwhile comes in the middle."""
    turn.running.sabotage(turn.network, "slow", times=1000)
    lengths: dict[str, dict[str, Any]] = {
        "sdxl": {"steps": 20, "num_images": 1},
        "wan": {"steps": 10},  # of two calls each
        "chat": {"max_tokens": 20, "temperature": 0},
    }
    turn.ask(**lengths[turn.handler])


@draw("cancel", STOPPED, weight=4)
def stopped_by_RunPod(turn: Turn) -> None:
    _slowly(turn)
    before = turn.running.calls(turn.network)

    def stop() -> None:
        turn.running.wait_for_call(turn.network, more_than=before)
        turn.running.gateway.stop(turn.id)

    turn.meanwhile = stop


@draw("F23", "DEVICE_ERROR", exits=1)
def the_GPU_is_lost(turn: Turn) -> None:
    turn.running.sabotage(turn.network, turn.chance.choice(("illegal access", "ecc", "launch failure", "lost by text")))


@draw("F24", "JOB_TIMEOUT", exits=1, weight=0.5)
def work_that_never_comes_back(turn: Turn) -> None:
    turn.job["policy"] = {"executionTimeout": 4000}
    turn.running.sabotage(turn.network, "hang")


@draw("F30", COMPLETED, exits=0)
def a_worker_that_is_scaled_down(turn: Turn) -> None:
    _slowly(turn)

    def terminate() -> None:
        turn.running.wait_for_call(turn.network)
        turn.running.process.terminate()

    turn.meanwhile = terminate


@draw("F30", COMPLETED, KILLED, exits=-signal.SIGKILL, weight=2)
def a_worker_that_is_killed(turn: Turn) -> None:
    moment = turn.chance.uniform(0.0, 1.0)

    def kill() -> None:
        turn.running.wait_for_call(turn.network)
        time.sleep(moment)
        turn.running.process.kill()

    turn.meanwhile = kill


# D. Storage


@draw("F31", COMPLETED, handlers=PICTURES, weight=2)
def storage_that_fails_twice(turn: Turn) -> None:
    turn.world.storage.fail(*[fails_with(turn.chance.choice((429, 500, 503, 504, 544, 423)))] * 2)


@draw("F31", COMPLETED, handlers=PICTURES)
def storage_that_answers_with_a_page(turn: Turn) -> None:
    turn.world.storage.fail(says(turn.chance.choice((502, 503)), b"<html>Bad gateway</html>", "text/html"))


@draw("F32", COMPLETED, handlers=PICTURES, weight=2)
def an_answer_that_is_lost(turn: Turn) -> None:
    turn.world.storage.fail(turn.chance.choice(HALF_ANSWERS))


@draw("F33", "UPLOAD_ERROR", handlers=PICTURES)
def storage_that_hangs(turn: Turn) -> None:
    turn.world.storage.outage = hangs


@draw("F34", "UPLOAD_ERROR", handlers=PICTURES, weight=2)
def storage_that_refuses(turn: Turn) -> None:
    turn.world.storage.outage = fails_with(turn.chance.choice((401, 403, 404, 413, 415)))


@draw("F35", "UPLOAD_ERROR", handlers=PICTURES, weight=2)
def storage_that_is_away(turn: Turn) -> None:
    turn.world.storage.outage = fails_with(503)


@draw("F35", "UPLOAD_ERROR", handlers=PICTURES)
def storage_and_the_receiver_are_away(turn: Turn) -> None:
    turn.world.storage.outage = fails_with(503)
    turn.world.answers(*[Answer(503)] * 50)


@draw("F36", COMPLETED, handlers=PICTURES)
def storage_that_dies(turn: Turn) -> None:
    turn.world.storage.fail(turn.chance.choice((database_stopped, dies_reading)))


@draw("F36", COMPLETED, handlers=PICTURES)
def storage_that_is_slow(turn: Turn) -> None:
    def slowly(handler: Handler) -> None:
        time.sleep(1.5)
        stores(handler)

    turn.world.storage.fail(slowly, slowly)


# E. Callbacks


@draw("F37", COMPLETED, weight=3)
def a_receiver_in_trouble(turn: Turn) -> None:
    turn.world.answers(turn.chance.choice(PASSING))


@draw("F38", COMPLETED, weight=3)
def a_receiver_that_is_away(turn: Turn) -> None:
    turn.world.answers(*turn.chance.choice(LASTING))


@draw("F39", COMPLETED)
def a_receiver_that_is_too_slow(turn: Turn) -> None:
    turn.world.answers(Answer(delay=4.0))


@contextlib.contextmanager
def calm_again(turn: Turn) -> Iterator[None]:
    """Takes the fault off at the end."""
    try:
        yield
    finally:
        turn.afterwards.close()
        turn.world.calm()
        (turn.running.folder / "sabotage.json").unlink(missing_ok=True)
