"""A job of the soak test, and the faults that can be injected into it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.fault_injection.harness import Harness, chat, sdxl, wan
from tests.chaos.fault_injection.worker_handle import WorkerHandle
from tests.doubles.image_server import Behaviour

HANDLERS = ("sdxl", "wan", "chat")
DIFFUSION = ("sdxl", "wan")
COMPLETED, CANCELLED, KILLED = "completed", "cancelled", "killed"
NETWORKS = {"sdxl": "denoiser", "wan": "denoiser", "chat": "writer"}
"""The network whose forward passes are the steps of a job, by handler."""


@dataclass
class Scenario:
    """One job and the fault that is being prepared for it.

    Attributes:
        job: The job as RunPod will hand it out.
        deliveries: How often RunPod hands it out.
        rejected: Whether it must fail before any work.
        during: Called once the worker has the job.
        cleanup: Removes what `Harness.clear_faults` does not.
    """

    harness: Harness
    worker: WorkerHandle
    rng: random.Random
    job: dict[str, Any]
    deliveries: int = 1
    rejected: bool = False
    during: Callable[[], object] = lambda: None
    cleanup: ExitStack = field(default_factory=ExitStack)

    @property
    def job_id(self) -> str:
        """Id of the job."""
        job_id: str = self.job["id"]
        return job_id

    @property
    def handler(self) -> str:
        """Handler of the job."""
        return self.worker.handler

    @property
    def network(self) -> str:
        """The network whose forward passes are the steps of the job."""
        return NETWORKS[self.handler]

    def configure(self, **config: Any) -> None:
        """Changes the configuration of the job; for chat, fields of the request."""
        request = self.job["input"]
        (request if self.handler == "chat" else request["config"]).update(config)

    def use_reference(self, *behaviours: Behaviour, url: str = "") -> None:
        """Gives the job a reference image, from an image server with these behaviours or from another URL."""
        url = url or self.harness.storage.serve(f"/refs/{self.job_id}", *behaviours)
        if self.handler == "wan":
            self.configure(reference_mode="single", image=url)
        else:
            self.job["input"]["metadata"] = {"reference_image_url": url, "reference_mode": "modify"}


Prepare = Callable[[Scenario], None]


@dataclass(frozen=True)
class SoakFault:
    """A fault that can be injected into a job.

    Attributes:
        number: Number of the fault-injection case that it stems from.
        outcomes: How the job may end: `completed`, `cancelled`, `killed`, or an error code.
        prepare: Injects the fault.
        handlers: Handlers whose jobs can meet it.
        exit_code: Exit code of the worker where the fault ends it.
        weight: Relative frequency.
    """

    number: str
    outcomes: frozenset[str]
    prepare: Prepare
    handlers: tuple[str, ...] = HANDLERS
    exit_code: int | None = None
    weight: float = 1.0

    @property
    def label(self) -> str:
        """Number and name."""
        return f"{self.number} {self.prepare.__name__.replace('_', ' ')}"


SOAK_FAULTS: list[SoakFault] = []


def soak_fault(
    number: str, *outcomes: str, handlers: tuple[str, ...] = HANDLERS, exit_code: int | None = None, weight: float = 1.0
) -> Callable[[Prepare], Prepare]:
    """Registers the decorated function as a fault."""

    def register(prepare: Prepare) -> Prepare:
        SOAK_FAULTS.append(SoakFault(number, frozenset(outcomes), prepare, handlers, exit_code, weight))
        return prepare

    return register


def make_job(handler: str, job_id: str, harness: Harness, rng: random.Random) -> dict[str, Any]:
    """Returns a valid job of random size. `stub` makes images without a model."""
    seed = rng.randrange(2**31)
    if handler == "stub":
        return sdxl(job_id, seed=seed)
    if handler == "sdxl":
        size = rng.choice(("64x64", "96x64"))
        return sdxl(job_id, seed=seed, num_images=rng.choice((1, 1, 3)), resolution=size, output_format=rng.choice(("png", "webp")))
    if handler == "wan":
        return wan(job_id, seed=seed, frames=rng.choice((1, 6, 9)))
    return chat(job_id, harness.receiver.url, seed=seed, max_tokens=rng.choice((4, 8, 16)), temperature=rng.choice((0, 0.7)))


@contextlib.contextmanager
def faults_cleared(scenario: Scenario) -> Iterator[None]:
    """Removes the fault on exit."""
    try:
        yield
    finally:
        scenario.cleanup.close()
        scenario.harness.clear_faults()
        scenario.worker.clear_faults()
