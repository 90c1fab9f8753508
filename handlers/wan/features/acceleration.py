"""Accelerations of the transformer, applied for one job and reported in its metadata. Those that change the result are opt-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal

import torch

from handlers.wan.features.step_caches import STEP_CACHES
from shared.models.compilation import can_compile

Acceleration = Literal["none", "lossless", "fast", "first_block_cache", "mag_cache", "taylorseer_cache"]

_CUDNN_SINCE = (9, 0)  # compute capability: cuDNN's attention is optimised for Hopper and later


def enabled_accelerations(acceleration: Acceleration, transformer: Any, free: int | None) -> tuple[str, ...]:
    """Returns the accelerations that a request's setting enables on the transformer's device.

    Args:
        acceleration: The request's setting.
        transformer: The one that will be called.
        free: The bytes left over by the clip; None if unlimited.

    Returns:
        Names of `ACCELERATIONS`. On a CPU `lossless` enables none: compiling would need a C++ compiler and take longer than clips do.
    """
    if acceleration == "fast":
        return ("first_block_cache",)
    if acceleration in STEP_CACHES:
        return (acceleration,)
    if acceleration == "none" or transformer.device.type != "cuda":
        return ()
    fused = ("fused_projections",) if free is None or fused_projections_size(transformer) <= free else ()
    modern = torch.cuda.get_device_capability(transformer.device) >= _CUDNN_SINCE
    compiled = ("compiled_blocks",) if can_compile(transformer.device) else ()
    return (*fused, *(("cudnn_attention",) if modern else ()), *compiled)


@contextmanager
def accelerated(transformer: Any, names: tuple[str, ...], steps: int) -> Iterator[None]:
    """Accelerates a transformer while the body runs.

    Args:
        transformer: The one that will be called, with LoRAs already merged.
        names: Names of `ACCELERATIONS`, in the order in which they are applied.
        steps: The denoising steps of the job.
    """
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(ACCELERATIONS[name](transformer, steps))
        yield


def fused_projections_size(transformer: Any) -> int:
    """Returns the bytes of the fused projections, which exist in addition to the separate ones."""
    layers = [layer for module in _attentions(transformer) for layer in (module.to_q, module.to_k, module.to_v)]
    return sum(layer.weight.nbytes for layer in layers)


def _attentions(transformer: Any) -> Iterator[Any]:
    return (module for module in transformer.modules() if getattr(module, "_supports_qkv_fusion", False))


@contextmanager
def _fused_projections(transformer: Any, _steps: int) -> Iterator[None]:
    """Computes queries, keys and values in one multiplication where they have the same input."""
    try:
        transformer.fuse_qkv_projections()
        yield
    finally:
        transformer.unfuse_qkv_projections()


@contextmanager
def _cudnn_attention(_transformer: Any, _steps: int) -> Iterator[None]:
    """Prefers cuDNN's attention; shapes that it does not support use the other backends as usual."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        yield


@contextmanager
def _compiled_blocks(transformer: Any, _steps: int) -> Iterator[None]:
    """Compiles the repeated blocks. The first job of a process waits for the compiler; torch caches the result.

    When there are more shapes than torch caches, it falls back to the uncompiled blocks without an error.
    """
    kinds = set(transformer._repeated_blocks)
    blocks = [module for module in transformer.modules() if type(module).__name__ in kinds]
    try:
        transformer.compile_repeated_blocks()
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


ACCELERATIONS: Mapping[str, Callable[[Any, int], AbstractContextManager[None]]] = {
    **STEP_CACHES,
    "fused_projections": _fused_projections,
    "cudnn_attention": _cudnn_attention,
    "compiled_blocks": _compiled_blocks,
}
"""By their names in payloads."""
