"""Every way a job can fail, as one table.

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

(*) Whoever raises it may say otherwise: a host that answered 503 may answer the next time, a storage that answered 403 will not.

(**) Yes where the work does not end: nothing but the end of its process ends it.

A message is written for the caller: what was wrong, what is allowed, what to do. It never holds a prompt, a token, a key, a local path
or a traceback, because it leaves the worker.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request.

    Attributes:
        field: Where it stands, as the caller wrote it: `config.steps`.
        sent: What was sent, fit to be shown: `99`, `"fats"`, `a string of 10 001 characters`.
        allowed: What would have been right: `a whole number from 10 to 50`.
        nearest: The nearest allowed value or name, if there is one: `50`.
    """

    field: str
    sent: str
    allowed: str
    nearest: str | None = None

    def __str__(self) -> str:
        nearest = f" (nearest: {self.nearest})" if self.nearest is not None else ""
        return f"{self.field}: must be {self.allowed}; you sent {self.sent}{nearest}"


class JobError(Exception):
    """A job ended without its result, for a reason that the caller may know.

    Args:
        message: One sentence for the caller.
        retryable: Whether the same job may succeed later; by default what the table says.
        replaces_worker: Whether this process can do no more; by default what the table says.
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
    """The request is wrong. All its problems are named at once; nothing was computed.

    Args:
        problems: The problems to be named.
        more: How many others there are, when naming them all would make too long a message.
        warnings: What else the caller should know: names that mean nothing may be misspelt ones.
    """

    code = "VALIDATION_ERROR"

    def __init__(self, problems: Iterable[Problem], *, more: int = 0, warnings: Iterable[str] = ()) -> None:
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        rest = f" | and {more} more" if more else ""
        super().__init__("The request is not valid. " + " | ".join(str(problem) for problem in self.problems) + rest)


class ReferenceImageError(JobError):
    """A reference cannot be fetched, opened or used. Retryable when its host failed with 5xx or timed out."""

    code = "REFERENCE_IMAGE_ERROR"


class ContextLengthExceeded(JobError):
    """The conversation does not fit the model's context window. Nothing is ever cut."""

    code = "CONTEXT_LENGTH_EXCEEDED"


class ModelUnavailable(JobError):
    """A named model, LoRA, VAE, ControlNet … is not on this worker. Nothing weaker is used in its place."""

    code = "MODEL_UNAVAILABLE"


class OutOfMemory(JobError):
    """Memory did not suffice even after every remedy was tried."""

    code = "OOM_ERROR"
    retryable = True


class GenerationError(JobError):
    """The model ran and its result is unusable: not finite, of a wrong shape, too large to hand over."""

    code = "GENERATION_ERROR"
    retryable = True


class UploadError(JobError):
    """Storage refused or stayed away. Nothing is reported as stored that is not. Not retryable when storage answered with 4xx.

    Args:
        message: One sentence for the caller.
        retryable: Whether the same job may succeed later.
        pending: The keys of what is kept on the worker, to be stored later.
    """

    code = "UPLOAD_ERROR"
    retryable = True

    def __init__(self, message: str, *, retryable: bool | None = None, pending: Iterable[str] = ()) -> None:
        super().__init__(message, retryable=retryable)
        self.pending = tuple(pending)


class JobTimeout(JobError):
    """The job's own deadline passed. The worker is replaced only where the work does not end."""

    code = "JOB_TIMEOUT"
    retryable = True


class Cancelled(JobError):
    """RunPod stopped the job."""

    code = "CANCELLED"


class DeviceError(JobError):
    """The GPU's context is lost; the worker takes no further job and is replaced."""

    code = "DEVICE_ERROR"
    retryable = True
    replaces_worker = True


class InternalError(JobError):
    """Anything else. The caller gets the job's id, the log gets the rest."""

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
"""The table, in the order of the documentation. `docs/errors.md` and the schemas are made from it."""

# CUDA reports these once and then for every later call: the context is lost (CUDA runtime API, cudaError_t). Everything that PyTorch
# raises as an accelerator error is treated so, except the two that say "this call was wrong" (1) and "no memory" (2).
_RECOVERABLE_CUDA_CODES = frozenset({1, 2})


def classify(error: BaseException, job_id: str) -> JobError:
    """Says which row of the table an exception belongs to.

    Torch's exceptions are recognised by name, so that nothing here imports torch.

    Args:
        error: What was raised while the job ran.
        job_id: Named in the message of an unexpected error, so that its log lines can be found.
    """
    if isinstance(error, JobError):
        return error
    if _is_out_of_memory(error):
        return OutOfMemory("Memory did not suffice for this job: ask for a smaller size, fewer images or fewer frames.")
    if _is_lost_device(error):
        return DeviceError("The GPU failed while the job ran; the worker is replaced. Send the job again.")
    return InternalError(f"The worker failed unexpectedly. Send the job again, or ask the operator to look for job {job_id} in the log.")


def clear_exception_frames(error: BaseException) -> None:
    """Frees what the frames of an error hold, and those of what it came of. Its traceback stays, and can still be shown.

    These frames hold the tensors that were being computed with, and what waited for the work holds the error: a circle, which nobody but
    the collector would undo, and that has so many objects of libraries to look through that it comes many jobs later.
    """
    chain = [error]
    for each in chain:
        traceback.clear_frames(each.__traceback__)
        chain.extend(of for of in (each.__cause__, each.__context__) if of is not None and of not in chain)


def _is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, MemoryError) or _is_a(error, "OutOfMemoryError")
    return known or any(text in str(error) for text in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"))


def _is_lost_device(error: BaseException) -> bool:
    code = getattr(error, "error_code", None)
    if _is_a(error, "AcceleratorError") and code is not None:
        return code not in _RECOVERABLE_CUDA_CODES
    # Libraries beside torch raise the same as plain errors, told apart by their texts.
    text = str(error)
    said = any(sign in text for sign in ("CUDA error: ", "CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED"))
    return isinstance(error, RuntimeError) and said and "CUDA error: invalid argument" not in text


def _is_a(error: BaseException, name: str) -> bool:
    return any(cls.__name__ == name for cls in type(error).__mro__)
