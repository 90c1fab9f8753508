"""The KV-cache memory budget: how many sequences fit, and how long they may be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from handlers.chat.engines.transformers.kv_cache import BLOCK_SIZE, KVCache, forward, round_up_to_block
from handlers.chat.engines.transformers.load import ChatModel
from shared.models.device import free_vram
from shared.settings import SettingsError
from shared.weights.folders import weight_files

# Reserved for a forward pass: activations of a prefill chunk, logits and copies of them, and a layer that is being reallocated.
_WORKSPACE = 2 * 2**30
# For development and tests.
_CPU_BUDGET = 2 * 2**30
# Memory that must be free after loading both models for both to stay resident: with less, contexts would be too short or too few.
_MIN_FREE_WITH_BOTH = 4 * 2**30
# Tokens of a typical conversation, prompt and completion. The maximum number of sequences is derived from it.
_TYPICAL_LENGTH = 4096
MAX_NUM_SEQS = 64
"""The most sequences that run at once, however short they are."""


@dataclass(frozen=True)
class CacheDemand:
    """The KV-cache memory that the sequences of one model may come to need.

    Attributes:
        bytes_per_token: Bytes of keys and values per token.
        sequences: The number of sequences.
        longest: The maximum length of the longest, prompt and `max_tokens`.
    """

    bytes_per_token: int
    sequences: int
    longest: int

    @property
    def bytes(self) -> int:
        """The memory for all rows at the maximum length, and one more: the prefill cache, which is separate from the batch's own."""
        return (self.sequences + 1) * round_up_to_block(self.longest + 1) * self.bytes_per_token if self.sequences else 0


def fits(demands: Iterable[CacheDemand], budget: int) -> bool:
    """Returns whether the budget suffices even if every sequence reaches its maximum length."""
    return sum(demand.bytes for demand in demands) <= budget


def max_model_len(bytes_per_token: int, budget: int) -> int:
    """Returns the maximum length in tokens of a sequence that has the whole budget to itself."""
    return budget // (2 * bytes_per_token) // BLOCK_SIZE * BLOCK_SIZE - 1


def max_num_seqs(bytes_per_token: int, context_length: int, budget: int) -> int:
    """Returns the number of sequences of typical length that fit the budget, 1 to 64."""
    return max(1, min(MAX_NUM_SEQS, budget // (bytes_per_token * min(_TYPICAL_LENGTH, context_length)) - 1))


def kv_cache_budget(device: torch.device) -> int:
    """Returns the bytes available for the KV cache: free memory once the models are loaded, less the workspace. 2 GiB on a CPU.

    Raises:
        SettingsError: Nothing is left.
    """
    free = free_vram(device)
    if free is None:
        return _CPU_BUDGET
    if free <= _WORKSPACE:
        raise SettingsError(f"The models leave only {free / 2**30:.1f} GiB of GPU memory free. Set CHAT_RESIDENT=one or use a larger GPU.")
    return free - _WORKSPACE


def measure_bytes_per_token(loaded: ChatModel, name: str) -> int:
    """Measures the KV-cache bytes per token with a trial forward pass, which also verifies that the engine supports the model.

    Raises:
        SettingsError: The model's cache is not keys and values per token.
    """
    cache = KVCache(loaded.layers, 1, 4)
    try:
        with torch.inference_mode():
            forward(loaded.model, cache, [[0, 0]], [0])
            forward(loaded.model, cache, [[0]], [2])
        return cache.bytes_per_token
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise SettingsError(f"The model {name!r} cannot be served: its cache is not keys and values of each token.") from error


def choose_residency(setting: Literal["auto", "both", "one"], folders: Iterable[Path], device: torch.device) -> Literal["both", "one"]:
    """Decides whether all models stay resident in memory.

    Args:
        setting: The operator's setting. `auto` means `both` if 4 GiB are left once both are loaded, and always on a CPU.
        folders: The models' folders; weights take as much memory on the device as on disk.
        device: Where the models go.
    """
    if setting != "auto":
        return setting
    free = free_vram(device)
    size = sum(path.stat().st_size for folder in folders for path in weight_files(folder, half=False))
    return "both" if free is None or free - size >= _MIN_FREE_WITH_BOTH else "one"
