"""Upscalers of all architectures of `spandrel`: what a file holds, and the network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from handlers.sdxl.postprocess.architectures import build, open_file, read_tensors, sketch
from shared.models.load import check_network, log_loaded
from shared.weights.errors import WeightsError, weights_error

# What building a network from contradictory names and shapes raises.
_DAMAGED = (OSError, ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, SafetensorError, TypeError, ValueError)
_PURPOSES = {"FaceSR": "restoring faces", "Restoration": "restoring images of the same size", "Inpainting": "inpainting"}
_DRAWS_NOISE = ("AuraSR",)


@dataclass(frozen=True)
class UpscalerInfo:
    """What a file holds.

    Attributes:
        architecture: spandrel's name: `ESRGAN`, `SwinIR`, `DAT` …
        scale: The factor by which the network enlarges width and height.
    """

    architecture: str
    scale: int


def read_info(file: Path) -> UpscalerInfo:
    """Reads architecture and scale from the header of a file. The answer is kept until the file changes.

    Args:
        file: A `.safetensors` file with the tensors of any architecture of spandrel, under any of its published naming schemes.

    Raises:
        WeightsError: The file is damaged, its architecture is unknown, or it is not for upscaling images in colour.
    """
    status = file.stat()
    return _read_info(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _read_info(file: Path, _modified: int, _size: int) -> UpscalerInfo:
    name = _name(file)
    with _explained(name), open_file(file) as opened:
        descriptor = sketch(opened, name)
    _check_purpose(descriptor, name)
    return UpscalerInfo(descriptor.architecture.id, descriptor.scale)


def load_upscaler(file: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Loads an upscaler.

    Args:
        file: As for `read_info`.
        device: The target device.
        dtype: The precision. A network that does not support float16 has bfloat16 instead, or else float32.

    Returns:
        An `ImageModelDescriptor` of spandrel, which enlarges images of any size: 1 × 3 × height × width in 0 … 1, on its `device` in its
        `dtype`. Its `model` is frozen and in evaluation mode.

    Raises:
        WeightsError: As for `read_info`.
    """
    started, name = time.perf_counter(), _name(file)
    with _explained(name), open_file(file) as opened:
        tensors = read_tensors(opened)
        descriptor = build(tensors, name)
    _check_purpose(descriptor, name)
    precision = _precision(descriptor, dtype)
    descriptor.to(device, precision).eval()
    descriptor.model.requires_grad_(False)
    check_network(descriptor.model, name=name, dtype=precision)
    log_loaded(name, sum(tensor.nbytes for tensor in tensors.values()), time.perf_counter() - started)
    return descriptor


def _name(file: Path) -> str:
    return f"upscalers/{file.stem}"


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Wraps what libraries raise about a file."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # an error of the device, not of the file
    except _DAMAGED as error:
        raise weights_error(name, error) from error


def _check_purpose(descriptor: Any, name: str) -> None:
    architecture, channels = descriptor.architecture.id, (descriptor.input_channels, descriptor.output_channels)
    if descriptor.purpose != "SR":
        raise WeightsError(name, f"it is {architecture}, a network for {_PURPOSES[descriptor.purpose]}, not for upscaling")
    if architecture in _DRAWS_NOISE:
        raise WeightsError(name, f"it is {architecture}, which draws noise of its own, so that a seed would not determine the image")
    if channels != (3, 3):
        raise WeightsError(name, f"it is {architecture} for {channels[0]} colour channels; images have 3")


def _precision(descriptor: Any, dtype: torch.dtype) -> torch.dtype:
    supported = {torch.float16: descriptor.supports_half, torch.bfloat16: descriptor.supports_bfloat16, torch.float32: True}
    return next(each for each in (dtype, torch.bfloat16, torch.float32) if supported[each])
