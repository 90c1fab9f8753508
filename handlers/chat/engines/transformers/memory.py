"""How many conversations fit in memory, and how long they may be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from handlers.chat.engines.transformers.kv_cache import COLUMNS, RowCache, forward, round_up
from handlers.chat.engines.transformers.load import ChatModel
from shared.models.device import free_vram
from shared.settings import SettingsError
from shared.weights.folders import weight_files

# What a pass needs beside keys and values: activations of a piece of a prompt, logits and copies of them, a layer that is being resized.
_WORKSPACE = 2 * 2**30
# On a CPU, where models are tried and tested.
_CPU_BUDGET = 2 * 2**30
# What must be left beside two models for both to stay: less would be too short or too few conversations.
_LEFT = 4 * 2**30
# A usual conversation, prompt and answer. A cache of so many tokens for each is what the number of conversations at once is chosen by.
_USUAL = 4096
_MOST_ROWS = 64


@dataclass(frozen=True)
class Demand:
    """What the conversations of one model may come to need.

    Attributes:
        bytes_per_token: Keys and values of one token.
        rows: How many conversations.
        longest: Prompt and `max_tokens` of the longest.
    """

    bytes_per_token: int
    rows: int
    longest: int

    @property
    def bytes(self) -> int:
        """All rows as long as the longest may become, and one more: a prompt that is being read is not yet among the others."""
        return (self.rows + 1) * round_up(self.longest + 1) * self.bytes_per_token if self.rows else 0


def fits(demands: Iterable[Demand], budget: int) -> bool:
    """Whether there is memory for conversations until each has its greatest length."""
    return sum(demand.bytes for demand in demands) <= budget


def longest_alone(bytes_per_token: int, budget: int) -> int:
    """How many tokens a conversation may have that has all the memory."""
    return budget // (2 * bytes_per_token) // COLUMNS * COLUMNS - 1


def rows_at_once(bytes_per_token: int, context_length: int, budget: int) -> int:
    """How many conversations of usual length there is memory for: at least 1, at most 64."""
    return max(1, min(_MOST_ROWS, budget // (bytes_per_token * min(_USUAL, context_length)) - 1))


def cache_budget(device: torch.device) -> int:
    """Bytes for keys and values: what is free beside the models, less what passes need. 2 GiB on a CPU.

    Raises:
        SettingsError: Nothing is left.
    """
    free = free_vram(device)
    if free is None:
        return _CPU_BUDGET
    if free <= _WORKSPACE:
        raise SettingsError(f"The models leave {free / 2**30:.1f} GiB of the GPU's memory. Set CHAT_RESIDENT=one, or take a larger GPU.")
    return free - _WORKSPACE


def bytes_per_token(loaded: ChatModel, name: str) -> int:
    """Bytes that a token takes in a model's cache, measured by a first pass, which also shows that the model can be served so.

    Raises:
        SettingsError: It cannot: it keeps something else than keys and values of each token.
    """
    cache = RowCache(loaded.layers, 1, 4)
    try:
        with torch.inference_mode():
            forward(loaded.model, cache, [[0, 0]], [0])
            forward(loaded.model, cache, [[0]], [2])
        return cache.bytes_per_token
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise SettingsError(f"The model {name!r} cannot be served: it keeps more than keys and values of each token.") from error


def choose_residency(wanted: Literal["auto", "both", "one"], folders: Iterable[Path], device: torch.device) -> Literal["both", "one"]:
    """Decides whether all models stay in memory.

    Args:
        wanted: What the operator wants; `auto`: both where `_LEFT` bytes are left beside them, always on a CPU.
        folders: The models' weights, as large on the device as on disk.
        device: Where they go.
    """
    if wanted != "auto":
        return wanted
    free = free_vram(device)
    size = sum(path.stat().st_size for folder in folders for path in weight_files(folder, half=False))
    return "both" if free is None or free - size >= _LEFT else "one"
