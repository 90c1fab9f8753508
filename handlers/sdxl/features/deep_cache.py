"""DeepCache, a step cache: a UNet's inner blocks run in every few calls only, and their output is reused in between.

Ma et al. 2023, arXiv 2312.00858. Consecutive denoising steps differ most in the outer blocks, next to the latents, which are cheap. The
UNet's own forward pass stays in place, so whatever acts outside the inner blocks works as usual: ControlNet residuals of the outer blocks,
IP-Adapters, LoRAs, compiled blocks, any size. In a call that reuses features, each inner block returns at once: a scalar stands for the
tensors that only other inner blocks would read, and the last inner block returns its previous output.

diffusers' caches serve transformers only. The authors' helper (horseee/DeepCache) waits for the GPU in each step, keeps the outputs of all
inner layers in memory, and does not restore all of the forward passes that it replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

INTERVAL = 3
"""The inner blocks run in every third call: N of the paper's uniform 1:N strategy, and the default of its authors' code for SDXL
(horseee/DeepCache, `cache_interval=3`)."""


@contextmanager
def deep_cached(unet: Any, branch: int, interval: int = INTERVAL) -> Iterator[None]:
    """Makes a UNet reuse the output of its inner blocks while the body runs, which denoises one batch.

    Nothing is kept from the calls of another body.

    Args:
        unet: A `UNet2DConditionModel`. Its first call, and every `interval`-th after that, computes all blocks.
        branch: How many resolutions, from the outermost, are computed in every call. At least one is reused.
        interval: 1 computes all blocks in every call.
    """
    branch = min(branch, len(unet.up_blocks) - 1)
    features, inner = _DeepFeatures(interval), _inner_blocks(unet, branch)
    with ExitStack() as stack:
        stack.callback(unet.register_forward_pre_hook(features.begin_call).remove)
        for block in inner:
            stack.enter_context(_replaced_forward(block, features.reusing(block, is_last=block is inner[-1])))
        yield


def _inner_blocks(unet: Any, branch: int) -> list[Any]:
    """Returns the blocks inside a branch, in the order of their calls. Distilled UNets may have no middle block."""
    middle = [] if unet.mid_block is None else [unet.mid_block]
    return [*unet.down_blocks[branch:], *middle, *unet.up_blocks[:-branch]]


class _DeepFeatures:
    """The features that one body reuses.

    Args:
        interval: All blocks are computed in every `interval`-th call.
    """

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._calls = 0
        self._is_full_call = True
        self._kept: dict[Any, Any] = {}

    def begin_call(self, _unet: Any, _arguments: Any) -> None:
        """Decides whether this call of the UNet computes all blocks."""
        self._is_full_call = self._calls % self._interval == 0
        self._calls += 1
        if self._is_full_call:
            self._kept.clear()  # the features are freed before the memory of a call is at its peak

    def reusing(self, block: Any, *, is_last: bool) -> Callable[..., Any]:
        """Returns a forward pass that computes an inner block in full calls only.

        Args:
            block: The block.
            is_last: Whether it is the last inner block, whose output an outer block reads.
        """
        compute = block.forward

        def forward(*arguments: Any, **named: Any) -> Any:
            if self._is_full_call:
                output = compute(*arguments, **named)
                self._kept[block] = output if is_last else _residual_count(output)
                return output
            if is_last:
                return self._kept[block]
            hidden_states = arguments[0] if arguments else named["hidden_states"]
            return _placeholder(hidden_states, self._kept[block])

        return forward


def _residual_count(output: Any) -> int | None:
    """Returns how many residuals a block hands to the upsampling blocks; None for a block that returns its hidden states only."""
    return len(output[1]) if isinstance(output, tuple) else None


def _placeholder(hidden_states: Tensor, residuals: int | None) -> Any:
    """Returns what stands for the output of an inner block: a scalar, to which residuals of a ControlNet can be added."""
    scalar = hidden_states.new_zeros(()) if hidden_states.ndim else hidden_states
    return scalar if residuals is None else (scalar, (scalar,) * residuals)


@contextmanager
def _replaced_forward(block: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Gives a module another forward pass while the body runs."""
    block.forward = forward
    try:
        yield
    finally:
        del block.forward
