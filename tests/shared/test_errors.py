"""The table of errors, and the classification of other exceptions."""

from __future__ import annotations

import re

import pytest
import torch

from shared import errors
from shared.errors import ERRORS, Conflict, InternalError, JobError, OutOfMemory, Problem, UploadError, ValidationError, classify


def accelerator_error(code: int) -> torch.AcceleratorError:
    error = torch.AcceleratorError(
        f"CUDA error: {'out of memory' if code == 2 else 'something'}\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."
    )
    error.error_code = code  # type: ignore[attr-defined]  # torch sets it where it is raised
    return error


def test_table_in_the_docstring_matches_the_classes() -> None:
    assert errors.__doc__ is not None
    rows = re.findall(r"^`(\w+)`\s+(yes|no)[ ()*]*\s+(yes|no)[ ()*]*\s+`(\w+)`$", errors.__doc__, flags=re.MULTILINE)
    yes = {True: "yes", False: "no"}
    assert rows == [(kind.__name__, yes[kind.retryable], yes[kind.replaces_worker], kind.code) for kind in ERRORS]


def test_every_error_class_is_in_the_table() -> None:
    assert set(JobError.__subclasses__()) == set(ERRORS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), "OOM_ERROR"),
        (MemoryError(), "OOM_ERROR"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "OOM_ERROR"),
        (RuntimeError("CUDA error: out of memory"), "OOM_ERROR"),
        (accelerator_error(700), "DEVICE_ERROR"),
        (accelerator_error(719), "DEVICE_ERROR"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "DEVICE_ERROR"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "DEVICE_ERROR"),
        (RuntimeError("CUDA error: unspecified launch failure"), "DEVICE_ERROR"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "DEVICE_ERROR"),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), "DEVICE_ERROR"),
        (torch.AcceleratorError("CUDA error: invalid argument"), "INTERNAL_ERROR"),
        (RuntimeError("CUDA error: invalid argument"), "INTERNAL_ERROR"),
        (accelerator_error(2), "OOM_ERROR"),
        (accelerator_error(1), "INTERNAL_ERROR"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "INTERNAL_ERROR"),
        (ValueError("CUDA error: in a ValueError"), "INTERNAL_ERROR"),
        (KeyError("x"), "INTERNAL_ERROR"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__} {str(value)[:40]}",
)
def test_library_exceptions_are_classified(error: Exception, code: str) -> None:
    assert classify(error, "job-1").code == code


def test_job_errors_are_returned_unchanged() -> None:
    rejected = UploadError("Storage rejected it.", retryable=False)
    assert classify(rejected, "job-1") is rejected
    assert UploadError("Storage was unavailable.").retryable
    assert not rejected.retryable


def test_unexpected_error_reveals_the_job_id_only() -> None:
    message = classify(RuntimeError("/srv/models/key=sk-123 and the prompt"), "job-1").message
    assert "job-1" in message
    for secret in ("sk-123", "/srv", "prompt"):
        assert secret not in message


def test_only_device_errors_replace_the_worker() -> None:
    assert [kind.code for kind in ERRORS if kind.replaces_worker] == ["DEVICE_ERROR"]


def test_validation_error_lists_value_problems_and_conflicts() -> None:
    error = ValidationError(
        [
            Problem("config.steps", "99", "a whole number from 10 to 50", "50"),
            Problem("prompt", "nothing", "a string"),
            Conflict.between("config.refiner", "config.mask", "config.controls"),
            Conflict.missing("config.mask", "metadata.reference_image_url"),
        ]
    )
    assert error.message.removeprefix("The request is not valid. ").split(" | ") == [
        "`config.steps` must be a whole number from 10 to 50; got 99 (nearest: 50)",
        "`prompt` must be a string; got nothing",
        "`config.refiner` cannot be combined with `config.mask` or `config.controls`",
        "`config.mask` requires `metadata.reference_image_url`",
    ]


def test_out_of_memory_and_internal_errors_are_retryable() -> None:
    assert OutOfMemory("x").retryable
    assert InternalError("x").retryable
