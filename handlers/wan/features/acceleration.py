"""Ways to be faster. Those that change the result only for those who ask; all of them for one job, and named in what it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from shutil import which
from typing import Any, Literal

import torch

Acceleration = Literal["none", "lossless", "fast"]

# A step that changes the first block's output by less than this share takes what the later blocks made of the step before (the method is
# ParaAttention's). On the small WAN 20 of 100 block calls fell away in 20 steps and 56 in 50, and clips differed by half a level of 255.
_THRESHOLD = 0.1
_CUDNN_SINCE = (9, 0)  # compute capability: from Hopper on, cuDNN's attention is written for the card


def ways_of(acceleration: Acceleration, transformer: Any, free: int | None) -> tuple[str, ...]:
    """What an acceleration means for a transformer where it is.

    Args:
        acceleration: As the request has it.
        transformer: Of the pipeline that is called.
        free: Bytes that there are for work beside what the clip takes; None: no end.

    Returns:
        Names of `WAYS`. For `lossless` on a CPU there are none: a compiler of C++ would be needed, and takes longer than clips do there.
    """
    if acceleration == "fast":
        return ("first_block_cache",)
    if acceleration == "none" or transformer.device.type != "cuda":
        return ()
    fused = ("fused_projections",) if free is None or fused_size(transformer) <= free else ()
    modern = torch.cuda.get_device_capability(transformer.device) >= _CUDNN_SINCE
    compiled = ("compiled_blocks",) if can_compile() else ()
    return (*fused, *(("cudnn_attention",) if modern else ()), *compiled)


def can_compile() -> bool:
    """Whether torch's compiler has what it needs for a GPU: Triton, and a compiler of C for what calls its kernels."""
    return find_spec("triton") is not None and any(which(name) for name in ("cc", "gcc", "clang"))


@contextmanager
def accelerated(transformer: Any, ways: tuple[str, ...]) -> Iterator[None]:
    """Speeds a transformer up for one job, and takes that off again whatever happens.

    Args:
        transformer: Of the pipeline that is called, with what its LoRAs add in its weights already.
        ways: Names of `WAYS`, in the order in which they are put on.
    """
    with ExitStack() as stack:
        for way in ways:
            stack.enter_context(WAYS[way](transformer))
        yield


def fused_size(transformer: Any) -> int:
    """Bytes that fused projections take beside the ones that they are made of."""
    layers = [layer for module in _attentions(transformer) for layer in (module.to_q, module.to_k, module.to_v)]
    return sum(layer.weight.nbytes for layer in layers)


def _attentions(transformer: Any) -> Iterator[Any]:
    return (module for module in transformer.modules() if getattr(module, "_supports_qkv_fusion", False))


@contextmanager
def _cached(transformer: Any) -> Iterator[None]:
    from diffusers import FirstBlockCacheConfig

    transformer.enable_cache(FirstBlockCacheConfig(threshold=_THRESHOLD))
    try:
        yield
    finally:
        transformer.disable_cache()


@contextmanager
def _fused(transformer: Any) -> Iterator[None]:
    """One multiplication for what needs the same factor: queries, keys and values."""
    try:
        transformer.fuse_qkv_projections()
        yield
    finally:
        transformer.unfuse_qkv_projections()


@contextmanager
def _cudnn_first(_transformer: Any) -> Iterator[None]:
    """Asks cuDNN's attention first; what it does not take goes to the others, as always."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        yield


@contextmanager
def _compiled(transformer: Any) -> Iterator[None]:
    """The repeated blocks as the compiler makes them. The first job of a process waits for it; what it made is kept by torch.

    More shapes than torch keeps fall back to what there was before: nothing fails for it.
    """
    kinds = set(transformer._repeated_blocks)
    blocks = [module for module in transformer.modules() if type(module).__name__ in kinds]
    try:
        transformer.compile_repeated_blocks()
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


WAYS: Mapping[str, Callable[[Any], AbstractContextManager[None]]] = {
    "first_block_cache": _cached,
    "fused_projections": _fused,
    "cudnn_attention": _cudnn_first,
    "compiled_blocks": _compiled,
}
"""Every way, by the name that payloads have for it."""
