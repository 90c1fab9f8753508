"""The functions that a handler supplies, and what passes between them and the lifecycle."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from PIL import Image
from pydantic import JsonValue

from shared.contract.request import Request
from shared.jobs.execution.cancel import CancelToken
from shared.media.extras import ExtraKind
from shared.media.images import Pixels
from shared.media.videos import STANDARD, Encoding


@dataclass(frozen=True)
class ImageOutput:
    """One finished image.

    Attributes:
        pixels: Height × width × 3.
        seed: The seed that made it.
        format: `png`, `webp` or `jpeg`.
        metadata: What was really done: effective steps, guidance, batch size …
    """

    pixels: Pixels = field(repr=False)
    seed: int
    format: str = "png"
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoOutput:
    """One finished video.

    Attributes:
        frames: Each height × width × 3; may be produced while it is read.
        fps: Frames per second, 8 … 24.
        seed: The seed that made it.
        metadata: What was really done.
        encoding: How it is to be written.
        extras: What is to be stored beside it.
    """

    frames: Iterable[Pixels] = field(repr=False)
    fps: int
    seed: int
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    encoding: Encoding = STANDARD
    extras: Sequence[ExtraKind] = ()


@dataclass(frozen=True)
class TextOutput:
    """One finished text. It is not stored: it rides in the payload."""

    content: str = field(repr=False)
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)


Output = ImageOutput | VideoOutput | TextOutput


class ProgressReporter(Protocol):
    """Tells the caller how far a job is. Cheap: updates are throttled elsewhere."""

    def __call__(self, done: int, total: int, *, text: str | None = None, preview: str | None = None) -> None:
        """Reports `done` of `total` steps; the text written so far where there is one; a picture of what there is, as a `data:` URL."""


@dataclass(frozen=True)
class JobRun:
    """What a recipe may use while it works.

    Attributes:
        job_id: For log lines.
        cancel: To be checked at every step.
        report: `report(done, total, text=None, preview=None)`: steps done of how many, for chat the text so far, and a small picture of
            what there is so far where one was asked for.
        warnings: What the caller is told beside the result.
    """

    job_id: str
    cancel: CancelToken
    report: ProgressReporter
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Adds to what the caller should know, however the job ends. What was said already is not said again."""
        if text not in self.warnings:
            self.warnings.append(text)

    def step(self, done: int, total: int, *, preview: str | None = None) -> None:
        """Between two steps: ends the work if the job was stopped, else reports how far it is, and what it looks like.

        Raises:
            Cancelled: The job was stopped.
            JobTimeout: Its deadline has passed.
        """
        self.cancel.check()
        self.report(done, total, preview=preview)


@dataclass(frozen=True)
class Summary:
    """What the handler adds to the payload of a completed job.

    Attributes:
        metadata: Merged into the payload's `metadata`.
        top_level: Merged into the payload itself; only chat has such keys.
        warnings: What the caller should know beside what the request's own warnings say.
    """

    metadata: Mapping[str, JsonValue]
    top_level: Mapping[str, JsonValue] = field(default_factory=dict, repr=False)
    warnings: Sequence[str] = ()


RequestT = TypeVar("RequestT", bound=Request, contravariant=True)


class Recipe(Protocol[RequestT]):
    """One handler, its models loaded: how a request becomes outputs."""

    def check(self, request: RequestT) -> None:
        """Refuses, before any work, what this worker cannot do.

        Raises:
            ModelUnavailable: Something that the request names is not on this worker.
            ContextLengthExceeded: The conversation does not fit.
            ValidationError: The request names things that this worker cannot do together.
        """

    def generate(self, request: RequestT, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        """Makes the outputs, one by one, on the thread that owns the GPU; or waits there for a thread of its own that does.

        Args:
            request: What to make.
            references: The pictures of `request.references`, fetched and verified, RGB.
            run: Report each step to it, and check its token at each.
        """

    def summarize(self, request: RequestT, outputs: Sequence[Output]) -> Summary:
        """Says what was really done, for the payload: as soon as the last output is made, on the same thread."""
