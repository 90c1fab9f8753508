"""The table of errors that a job can fail with.

============================  =========  ===============  ==========================
class                         retryable  worker replaced  code
============================  =========  ===============  ==========================
`ValidationError`             no         no               `VALIDATION_ERROR`
`ReferenceImageError`         no (*)     no               `REFERENCE_IMAGE_ERROR`
`ContextLengthExceeded`       no         no               `CONTEXT_LENGTH_EXCEEDED`
`ModelUnavailable`            no         no               `MODEL_UNAVAILABLE`
`OutOfMemory`                 yes        no               `OOM_ERROR`
`GenerationError`             yes        no               `GENERATION_ERROR`
`UploadError`                 yes (*)    no               `UPLOAD_ERROR`
`JobTimeout`                  yes        no (**)          `JOB_TIMEOUT`
`Cancelled`                   no         no               `CANCELLED`
`DeviceError`                 yes        yes              `DEVICE_ERROR`
`InternalError`               yes        no               `INTERNAL_ERROR`
============================  =========  ===============  ==========================

(*) The code that raises it may override this: after HTTP 503 a retry may succeed, after 403 it will not.

(**) Yes if the work does not stop: only the end of its process stops it then.

Messages are for the caller: what was wrong, what is allowed, what to do. They leave the worker, so they never contain a prompt, a token,
a key, a local path or a traceback.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request: "`config.steps` must be a whole number from 10 to 50; got 99 (nearest: 50)".

    Attributes:
        field: Where the value stands, as the caller wrote it: `config.steps`.
        sent: The value in a form that is safe to show: `99`, `"fats"`, `a string of 10 001 characters`.
        allowed: Completes the sentence "must be …": `a whole number from 10 to 50`. Of a `Conflict` the whole sentence.
        nearest: The nearest allowed value or name, if there is one: `50`.
    """

    field: str
    sent: str
    allowed: str
    nearest: str | None = None

    def __str__(self) -> str:
        nearest = f" (nearest: {self.nearest})" if self.nearest is not None else ""
        return f"`{self.field}` must be {self.allowed}; got {self.sent}{nearest}"


@dataclass(frozen=True, slots=True)
class Conflict(Problem):
    """Fields that cannot be combined, or a field that requires another one. The values are not at fault, so the message shows none."""

    def __str__(self) -> str:
        return self.allowed

    @classmethod
    def between(cls, subject: str, *others: str, field: str | None = None, sent: str = "given") -> Conflict:
        """Reports "`config.refiner` cannot be combined with `config.mask`".

        Args:
            subject: The canonical path of a field.
            others: The canonical paths of the fields that it cannot be combined with.
            field: The field to report, if not the subject.
            sent: Whether that field was `given`, or `nothing`.
        """
        return cls(field or subject, sent, f"`{subject}` cannot be combined with {_quoted(others, 'or')}")

    @classmethod
    def missing(cls, subject: str, *others: str, field: str | None = None, sent: str = "given") -> Conflict:
        """Reports "`config.mask` requires `metadata.reference_image_url`".

        Args:
            subject: The canonical path of a field.
            others: The canonical paths of the fields that it requires, all of them.
            field: The field to report, if not the subject.
            sent: Whether that field was `given`, or `nothing`.
        """
        return cls(field or subject, sent, f"`{subject}` requires {_quoted(others, 'and')}")


def _quoted(paths: Iterable[str], conjunction: str) -> str:
    return f" {conjunction} ".join(f"`{path}`" for path in paths)


class JobError(Exception):
    """A job failed, for a reason that the caller is told.

    Args:
        message: A message for the caller.
        retryable: Whether the same job may succeed later; overrides the table.
        replaces_worker: Whether the process must be replaced; overrides the table.
    """

    code: ClassVar[str]
    retryable: bool = False
    replaces_worker: bool = False

    def __init__(self, message: str, *, retryable: bool | None = None, replaces_worker: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retryable is not None:
            self.retryable = retryable
        if replaces_worker is not None:
            self.replaces_worker = replaces_worker


class ValidationError(JobError):
    """The request is invalid. All problems are reported at once, before any work.

    Args:
        problems: The problems to list.
        more: The number of further problems, if listing all would make the message too long.
        warnings: The request's warnings: an unknown field may be a misspelt one.
    """

    code = "VALIDATION_ERROR"

    def __init__(self, problems: Iterable[Problem], *, more: int = 0, warnings: Iterable[str] = ()) -> None:
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        rest = f" | and {more} more" if more else ""
        super().__init__("The request is not valid. " + " | ".join(str(problem) for problem in self.problems) + rest)


class ReferenceImageError(JobError):
    """A reference cannot be fetched, decoded or used. Retryable if its host failed with 5xx or timed out."""

    code = "REFERENCE_IMAGE_ERROR"


class ContextLengthExceeded(JobError):
    """The conversation does not fit the model's context window. It is never truncated."""

    code = "CONTEXT_LENGTH_EXCEEDED"


class ModelUnavailable(JobError):
    """A named model, LoRA, VAE, ControlNet … is not installed on this worker. There is no fallback to another one."""

    code = "MODEL_UNAVAILABLE"


class OutOfMemory(JobError):
    """Out of memory, even after every fallback."""

    code = "OOM_ERROR"
    retryable = True


class GenerationError(JobError):
    """The model's output is unusable: not finite, of an unexpected shape, or too large to return."""

    code = "GENERATION_ERROR"
    retryable = True


class UploadError(JobError):
    """Storage rejected an upload or was unavailable. Not retryable after a permanent 4xx.

    Args:
        message: A message for the caller.
        retryable: Whether the same job may succeed later.
        pending: The keys of assets kept in the worker's outbox, to be stored later.
    """

    code = "UPLOAD_ERROR"
    retryable = True

    def __init__(self, message: str, *, retryable: bool | None = None, pending: Iterable[str] = ()) -> None:
        super().__init__(message, retryable=retryable)
        self.pending = tuple(pending)


class JobTimeout(JobError):
    """The job's deadline passed. The worker is replaced only if the work does not stop."""

    code = "JOB_TIMEOUT"
    retryable = True


class Cancelled(JobError):
    """RunPod cancelled the job."""

    code = "CANCELLED"


class DeviceError(JobError):
    """The CUDA context is lost. The worker takes no further job and is replaced."""

    code = "DEVICE_ERROR"
    retryable = True
    replaces_worker = True


class InternalError(JobError):
    """Any other error. The caller gets the job's id; the details are logged."""

    code = "INTERNAL_ERROR"
    retryable = True


ERRORS: tuple[type[JobError], ...] = (
    ValidationError,
    ReferenceImageError,
    ContextLengthExceeded,
    ModelUnavailable,
    OutOfMemory,
    GenerationError,
    UploadError,
    JobTimeout,
    Cancelled,
    DeviceError,
    InternalError,
)
"""The table in documentation order. `docs/errors.md` and the schemas are generated from it."""

# Most CUDA errors are sticky: every later call fails too, because the context is lost (CUDA runtime API, cudaError_t). The exceptions
# among PyTorch's accelerator errors are cudaErrorInvalidValue (1) and cudaErrorMemoryAllocation (2).
_RECOVERABLE_CUDA_CODES = frozenset({1, 2})


def classify(error: BaseException, job_id: str) -> JobError:
    """Maps any exception to an error of the table.

    PyTorch's exceptions are recognised by class name, so that this module does not import torch.

    Args:
        error: The exception that the job raised.
        job_id: Included in the message of an unexpected error, to find its log lines.
    """
    if isinstance(error, JobError):
        return error
    if _is_out_of_memory(error):
        return OutOfMemory("Out of memory: request a smaller size, fewer images or fewer frames.")
    if _is_lost_device(error):
        return DeviceError("The GPU failed during the job; the worker is being replaced. Send the job again.")
    return InternalError(f"The worker failed unexpectedly. Send the job again, or ask the operator to search the log for job {job_id}.")


def clear_exception_frames(error: BaseException) -> None:
    """Clears the local variables of the traceback frames of an exception and its causes. The traceback can still be printed.

    The frames keep GPU tensors alive, and the waiting future keeps the exception alive: a reference cycle that the garbage collector may
    not break for many jobs.
    """
    chain = [error]
    for link in chain:
        traceback.clear_frames(link.__traceback__)
        chain.extend(cause for cause in (link.__cause__, link.__context__) if cause is not None and cause not in chain)


def _is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, MemoryError) or _is_a(error, "OutOfMemoryError")
    return known or any(text in str(error) for text in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"))


def _is_lost_device(error: BaseException) -> bool:
    code = getattr(error, "error_code", None)
    if _is_a(error, "AcceleratorError") and code is not None:
        return code not in _RECOVERABLE_CUDA_CODES
    # Other libraries raise the same errors as RuntimeError, recognisable only by their text.
    text = str(error)
    is_cuda = any(sign in text for sign in ("CUDA error: ", "CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED"))
    return isinstance(error, RuntimeError) and is_cuda and "CUDA error: invalid argument" not in text


def _is_a(error: BaseException, name: str) -> bool:
    return any(cls.__name__ == name for cls in type(error).__mro__)
