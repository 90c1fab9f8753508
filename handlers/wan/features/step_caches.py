"""diffusers' caches, which reuse activations between steps: faster, and another clip. Opt-in, each under its own name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

# First-block cache (ParaAttention): a step that changes the first block's output by less than this share reuses the residual of the later
# blocks from the step before.
_FIRST_BLOCK_THRESHOLD = 0.1

# MagCache (arXiv 2506.09045) skips steps while the accumulated change of the residual's magnitude stays below a threshold. The settings and
# the ratios of magnitudes, here as the points of a curve over the share of steps, were calibrated by its authors on WAN 2.1 T2V 1.3B
# (Zehong-Ma/MagCache, MagCache4Wan2.1).
_MAG_THRESHOLD, _MAG_MOST_SKIPPED, _MAG_KEPT = 0.12, 2, 0.2
_MAG_RATIOS: Mapping[float, float] = {
    0.0: 1.0, 0.02: 1.012, 0.04: 1.002, 0.08: 0.997, 0.2: 0.995, 0.4: 0.994, 0.5: 0.992, 0.6: 0.989, 0.7: 0.984, 0.78: 0.977, 0.84: 0.965,
    0.88: 0.951, 0.92: 0.924, 0.94: 0.902, 0.97: 0.868, 1.0: 0.818,
}  # fmt: skip

# TaylorSeer (arXiv 2503.06923) extrapolates the transformer's output from the last two that were computed. All blocks together are one
# module here: for each of 30 blocks the cached outputs of a clip of 81 frames would take 36 GB.
_TAYLOR_INTERVAL, _TAYLOR_WARM_UP = 3, 4


def _first_block(_steps: int) -> Any:
    from diffusers import FirstBlockCacheConfig

    return FirstBlockCacheConfig(threshold=_FIRST_BLOCK_THRESHOLD)


def _mag(steps: int) -> Any:
    import numpy as np
    from diffusers import MagCacheConfig

    ratios = np.interp(np.linspace(0, 1, steps), list(_MAG_RATIOS), list(_MAG_RATIOS.values()))
    return MagCacheConfig(
        threshold=_MAG_THRESHOLD,
        max_skip_steps=_MAG_MOST_SKIPPED,
        retention_ratio=_MAG_KEPT,
        num_inference_steps=steps,
        mag_ratios=ratios.tolist(),
    )


def _taylorseer(_steps: int) -> Any:
    import torch
    from diffusers import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig(
        cache_interval=_TAYLOR_INTERVAL,
        disable_cache_before_step=_TAYLOR_WARM_UP,
        max_order=1,
        taylor_factors_dtype=torch.float32,
        use_lite_mode=True,
    )


def step_cache(config: Callable[[int], Any]) -> Callable[[Any, int], AbstractContextManager[None]]:
    """Returns a context manager that enables a cache on a transformer for the steps of one job.

    Args:
        config: Makes the cache's configuration for a number of steps.
    """

    @contextmanager
    def enabled(transformer: Any, steps: int) -> Iterator[None]:
        transformer.enable_cache(config(steps))
        try:
            yield
        finally:
            transformer.disable_cache()

    return enabled


STEP_CACHES: Mapping[str, Callable[[Any, int], AbstractContextManager[None]]] = {
    "first_block_cache": step_cache(_first_block),
    "mag_cache": step_cache(_mag),
    "taylorseer_cache": step_cache(_taylorseer),
}
"""By their names in requests and payloads."""

CACHED_TENSORS: Mapping[str, int] = {"fast": 3, "first_block_cache": 3, "mag_cache": 2, "taylorseer_cache": 0}
"""By requests' settings: the tensors of all tokens that a cache keeps from step to step for each pass of the transformer."""
