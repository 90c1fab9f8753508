"""Accelerations of the transformer, applied for one job and reported in its metadata. Those that change the clip are opt-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch

from handlers.wan.features.step_caches import STEP_CACHES
from shared.models.compilation import CompiledBlocks

Acceleration = Literal["none", "lossless", "fast", "first_block_cache", "mag_cache", "taylorseer_cache"]

_FAST = "first_block_cache"
_CUDNN_SINCE = (9, 0)  # compute capability: cuDNN's attention is optimised for Hopper and later


def enabled_accelerations(acceleration: Acceleration, device: torch.device, compiled: CompiledBlocks | None) -> tuple[str, ...]:
    """Returns the accelerations that a request's setting enables.

    Args:
        acceleration: The request's setting.
        device: The transformer's.
        compiled: The transformer's compiled blocks; None if they are never compiled.

    Returns:
        Their names in payloads. Calls that a cache may skip are not compiled: diffusers' hooks are in their place.
    """
    if acceleration == "none":
        return ()
    attention = ("cudnn_attention",) if _prefers_cudnn(device) else ()
    if acceleration != "lossless":
        return (*attention, _FAST if acceleration == "fast" else acceleration)
    return (*attention, "compiled_blocks") if compiled is not None and compiled.is_ready else attention


@contextmanager
def accelerated(transformer: Any, names: tuple[str, ...], steps: int, compiled: CompiledBlocks | None = None) -> Iterator[None]:
    """Accelerates a transformer while the body runs.

    Args:
        transformer: The one that will be called, with LoRAs already merged.
        names: As `enabled_accelerations` returns them.
        steps: The denoising steps of the job.
        compiled: The transformer's compiled blocks.
    """
    with ExitStack() as stack:
        if "cudnn_attention" in names:
            stack.enter_context(preferred_attention(transformer.device))
        if "compiled_blocks" in names and compiled is not None:
            stack.enter_context(compiled.enabled())
        for name in names:
            if name in STEP_CACHES:
                stack.enter_context(STEP_CACHES[name](transformer, steps))
        yield


def preferred_attention(device: torch.device) -> AbstractContextManager[None]:
    """Prefers cuDNN's attention where it is the fastest; shapes that it does not support use the other backends as usual."""
    if not _prefers_cudnn(device):
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(order, set_priority=True)


def _prefers_cudnn(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _CUDNN_SINCE
