"""The interface between the lifecycle of a job and a handler: the recipe, what it is given, and the outputs that it generates."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from PIL import Image
from pydantic import JsonValue

from shared.contract.request import Request
from shared.jobs.execution.cancel import CancelToken
from shared.media.extras import ExtraKind
from shared.media.images import Pixels
from shared.media.videos import DEFAULT_ENCODING, Encoding


@dataclass(frozen=True)
class ImageOutput:
    """A generated image.

    Attributes:
        pixels: Height × width × 3.
        seed: The seed that it was generated with.
        format: `png`, `webp` or `jpeg`.
        metadata: The effective parameters: steps, guidance, batch size …
    """

    pixels: Pixels = field(repr=False)
    seed: int
    format: str = "png"
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoOutput:
    """A generated clip.

    Attributes:
        frames: Each height × width × 3. May still be produced while it is consumed, for instance a `StreamQueue`.
        fps: Frames per second, 8 … 24.
        seed: The seed that it was generated with.
        metadata: The effective parameters.
        encoding: The encoder and its quality.
        extras: Additional files to store with the clip.
    """

    frames: Iterable[Pixels] = field(repr=False)
    fps: int
    seed: int
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    encoding: Encoding = DEFAULT_ENCODING
    extras: Sequence[ExtraKind] = ()


@dataclass(frozen=True)
class TextOutput:
    """A generated text. It is not stored: the payload contains it."""

    content: str = field(repr=False)
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)


Output = ImageOutput | VideoOutput | TextOutput


class ProgressReporter(Protocol):
    """Reports progress to the caller. Cheap to call: updates are throttled downstream."""

    def __call__(self, done: int, total: int, *, text: str | None = None, preview: str | None = None) -> None:
        """Reports one step.

        Args:
            done: Steps completed.
            total: Steps in all.
            text: The text generated so far.
            preview: A small image of the result so far, as a `data:` URL.
        """


def discard_piece(_piece: Any) -> None:
    """Discards a piece of the output: the caller reads no stream."""


@dataclass(frozen=True)
class JobRun:
    """One run of a job, as its recipe sees it.

    Attributes:
        job_id: For log lines.
        cancel: The cancellation token, to be checked at every step.
        report: Reports progress.
        emit: Sends a piece of the output to the caller, if the caller reads a stream. The handler's presentation renders it.
        warnings: Remarks for the caller, which the payload lists whether the job completes or fails.
    """

    job_id: str
    cancel: CancelToken
    report: ProgressReporter
    emit: Callable[[Any], None] = discard_piece
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Adds a warning, unless it was added before."""
        if text not in self.warnings:
            self.warnings.append(text)

    def step(self, done: int, total: int, *, preview: str | None = None) -> None:
        """Checks for cancellation, then reports a step. To be called between two steps.

        Args:
            done: Steps completed.
            total: Steps in all.
            preview: A small image of the result so far, as a `data:` URL.

        Raises:
            Cancelled: The job was cancelled.
            JobTimeout: The job's deadline has passed.
        """
        self.cancel.check()
        self.report(done, total, preview=preview)


@dataclass(frozen=True)
class Summary:
    """The handler's part of a completed job's payload.

    Attributes:
        metadata: Merged into the payload's `metadata`.
        top_level: Merged into the payload itself; only chat has such keys.
        warnings: Appended to the warnings of the request and of the run.
    """

    metadata: Mapping[str, JsonValue]
    top_level: Mapping[str, JsonValue] = field(default_factory=dict, repr=False)
    warnings: Sequence[str] = ()


RequestT = TypeVar("RequestT", bound=Request, contravariant=True)


class Recipe(Protocol[RequestT]):
    """A handler with its models loaded: turns a request into outputs."""

    def check(self, request: RequestT) -> None:
        """Rejects, before any work, a valid request that this worker cannot serve.

        Raises:
            ModelUnavailable: The request names weights that are not on this worker.
            ContextLengthExceeded: The conversation does not fit.
            ValidationError: The request combines things that this worker cannot combine.
        """

    def generate(self, request: RequestT, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        """Generates the outputs, one by one, on the GPU thread, or blocks that thread while one of the recipe's own does the work.

        Args:
            request: The validated request.
            references: The images of `request.references`, fetched and verified, RGB.
            run: Takes the progress of each step, and has the token that each step checks.
        """

    def summarize(self, request: RequestT, outputs: Sequence[Output]) -> Summary:
        """Returns the summary for the payload. Called on the same thread, right after the last output."""
