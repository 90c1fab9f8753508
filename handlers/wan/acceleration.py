"""Ways to be faster that change the result. Only for those who ask, and named in what they get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A step that changes the first block's output by less than this share takes what the later blocks made of the step before (the method is
# ParaAttention's). On the small WAN 20 of 100 block calls fell away in 20 steps and 56 in 50, and clips differed by half a level of 255.
_THRESHOLD = 0.1


@contextmanager
def accelerated(transformer: Any, acceleration: str) -> Iterator[None]:
    """Speeds a transformer up for one job, and takes that off again whatever happens.

    Args:
        transformer: Of the pipeline that is called.
        acceleration: `none`, or `fast` for a cache behind the first block.
    """
    if acceleration == "none":
        yield
        return
    from diffusers import FirstBlockCacheConfig

    transformer.enable_cache(FirstBlockCacheConfig(threshold=_THRESHOLD))
    try:
        yield
    finally:
        transformer.disable_cache()
