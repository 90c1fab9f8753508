"""A KV cache for continuous batching: a transformers cache in which every row holds one sequence of its own length.

Each row starts at position 0, so a sequence joins the batch by a copy of its own positions and leaves it by one move of the last row; no
other row is touched. Positions beyond a row's length are masked, and always finite: zeros or stale values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from handlers.chat.engines.transformers.device_inputs import DeviceInputs

BLOCK_SIZE = 256
"""Positions by which a cache grows at once: a reallocation for every token would cost more than the token."""
_VECTOR = 16
"""Positions that a CPU's widest vectors hold. Over a multiple of it, attention sums the same positions in the same order for every width:
the result of a row then does not depend on the length of the others, bit for bit."""


@dataclass
class _SlotMapping:
    """The slots that the next forward pass writes, shared by all layers.

    Attributes:
        positions: Rows × tokens; -1, the last position of the cache, for padding. None: every row writes the last positions before `width`.
        rows: The row index of each position, rows × 1.
        width: Positions that attention sees.
    """

    positions: Tensor | None = None
    rows: Tensor | None = None
    width: int = 0


class _KVLayer(CacheLayerMixin):
    """The keys and values of one layer, each rows × heads × positions × head size."""

    is_sliding = False

    def __init__(self, slots: _SlotMapping, rows: int, positions: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers is typed in part
        self._slots = slots
        self._shape = (rows, positions)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (_zeros(states, *self._shape) for states in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes new keys and values to their slots, and returns the rows up to `width`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        seen = [self._write(cached, new) for cached, new in ((self._tensor(0), key_states), (self._tensor(1), value_states))]
        return seen[0], seen[1]

    def _tensor(self, which: int) -> Tensor:
        tensor = (self.keys, self.values)[which]
        if tensor is None:
            raise RuntimeError("the cache layer is not initialised")
        return tensor

    def _write(self, cached: Tensor, new: Tensor) -> Tensor:
        rows, width, positions = new.shape[0], self._slots.width, self._slots.positions
        if positions is None:
            cached[:rows, :, width - new.shape[2] : width] = new
        else:
            cached[self._slots.rows, :, positions] = new.transpose(1, 2)
        return cached[:rows, :, :width]

    def resize(self, rows: int, positions: int) -> None:
        """Reallocates the layer and keeps the content that fits."""
        self._shape = (rows, positions)
        if self.is_initialized:
            self.keys, self.values = (_resized(self._tensor(which), rows, positions) for which in (0, 1))

    def copy_row(self, row: int, source: _KVLayer, source_row: int, length: int) -> None:
        """Copies the first `length` positions of a row of another layer, or of this one."""
        for which in (0, 1):
            tensor = source._tensor(which)
            if not self.is_initialized:
                self.lazy_initialization(source._tensor(0), source._tensor(1))
            self._tensor(which)[row, :, :length] = tensor[source_row, :, :length]

    def zero_row(self, row: int) -> None:
        for which in (0, 1):
            self._tensor(which)[row].zero_()

    def get_seq_length(self) -> int:
        return self._slots.width if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._slots.width, 0

    def get_max_length(self) -> int:
        return -1

    @property
    def bytes_per_token(self) -> int:
        return sum(self._tensor(which)[0, :, 0].numel() * self._tensor(which).element_size() for which in (0, 1))


class KVCache(Cache):
    """A KV cache with one sequence per row.

    Args:
        layers: The number of layers of the model.
        rows: Rows to allocate.
        positions: Positions to allocate in each row.
    """

    def __init__(self, layers: int, rows: int, positions: int) -> None:
        self.shape = (rows, positions)
        self._slots = _SlotMapping()
        self._kv_layers: list[_KVLayer] = [_KVLayer(self._slots, rows, positions) for _ in range(layers)]
        super().__init__(layers=list(self._kv_layers))

    def set_slots(self, positions: Tensor | None, width: int) -> None:
        """Sets the slots that the next forward pass writes.

        Args:
            positions: Rows × tokens, int64; -1 for padding, which needs one position more than `width`. None: every row writes the last
                positions before `width`.
            width: The positions that attention sees: the length of the longest row after the pass, or more.
        """
        self._slots.positions, self._slots.width = positions, width
        self._slots.rows = torch.arange(len(positions), device=positions.device)[:, None] if positions is not None else None

    def grow(self, rows: int, positions: int) -> None:
        """Ensures a capacity of at least so many rows and positions."""
        if rows > self.shape[0] or positions > self.shape[1]:
            self._resize(max(rows, self.shape[0]), max(round_up_to_block(positions), self.shape[1]))

    def trim(self, rows: int, positions: int) -> None:
        """Frees capacity beyond so many rows and positions."""
        smaller = (min(rows, self.shape[0]), min(round_up_to_block(positions), self.shape[1]))
        if smaller != self.shape:
            self._resize(*smaller)

    def _resize(self, rows: int, positions: int) -> None:
        for layer in self._kv_layers:  # one at a time, so that at most one layer is in memory twice
            layer.resize(rows, positions)
        self.shape = (rows, positions)

    def copy_row(self, row: int, source: KVCache, source_row: int, length: int) -> None:
        """Copies the first `length` positions of a row of `source`, which may be this cache, to a row."""
        for layer, source_layer in zip(self._kv_layers, source._kv_layers, strict=True):
            layer.copy_row(row, source_layer, source_row, length)

    def zero_row(self, row: int) -> None:
        """Zeroes a row that holds non-finite values: even masked, they would contaminate the next sequence in this row (0 × NaN is NaN)."""
        for layer in self._kv_layers:
            layer.zero_row(row)

    @property
    def bytes_per_token(self) -> int:
        """Bytes per token in all layers. Known after the first forward pass."""
        return sum(layer.bytes_per_token for layer in self._kv_layers)


def forward(
    model: Any, cache: KVCache, inputs: Sequence[Sequence[int]], lengths: Sequence[int], device_inputs: DeviceInputs | None = None
) -> Tensor:
    """Runs one forward pass over new tokens of several sequences.

    Args:
        model: A causal language model of transformers.
        cache: Large enough for the rows after the pass, with one more position if the inputs differ in length.
        inputs: The new token ids of each row, from the first row on; at least one token each.
        lengths: The tokens of each row that are already in the cache.
        device_inputs: What goes to the device together with them, if there is anything.

    Returns:
        The logits after the last token of each row, rows × vocabulary.
    """
    longest, width = max(map(len, inputs)), max(length + len(ids) for ids, length in zip(inputs, lengths, strict=True))
    padding = np.array([longest - len(ids) for ids in inputs])
    offsets = np.arange(longest) - padding[:, None]
    # Without padding and with equal lengths, the plain causal mask or none suffices, for which there are faster kernels.
    uniform = not padding.any() and len(set(lengths)) == 1
    on_cpu = model.device.type == "cpu"
    plain = uniform and (lengths[0] == 0 or (longest == 1 and not on_cpu))
    if on_cpu and not plain:
        width = min(-(-width // _VECTOR) * _VECTOR, cache.shape[1])
    sent = DeviceInputs(model.device) if device_inputs is None else device_inputs
    ids = sent.integers([[0] * pad + list(ids) for ids, pad in zip(inputs, padding, strict=True)])
    positions = sent.integers(np.where(offsets < 0, -1, offsets + np.array(lengths)[:, None]))
    slots = positions()
    cache.set_slots(None if plain else slots, width)
    position_ids = slots.clamp(min=0)
    mask = None if plain else _causal_mask(position_ids, width, model.dtype)
    logits: Tensor = model(
        input_ids=ids(), attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True, logits_to_keep=1
    ).logits[:, -1]
    return logits


def _causal_mask(position_ids: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Returns the additive attention mask, rows × 1 × tokens × `width`: 0 up to a token's own position, the lowest number beyond it.

    Additive rather than boolean: every attention implementation takes it, and no layer has to convert it again.
    """
    beyond = torch.arange(width, device=position_ids.device) > position_ids[..., None]
    return torch.zeros(beyond.shape, dtype=dtype, device=beyond.device).masked_fill_(beyond, torch.finfo(dtype).min)[:, None]


def round_up_to_block(positions: int) -> int:
    """Rounds a number of positions up to whole blocks."""
    return -(-positions // BLOCK_SIZE) * BLOCK_SIZE


def _zeros(like: Tensor, rows: int, positions: int) -> Tensor:
    return torch.zeros(rows, like.shape[1], positions, like.shape[3], dtype=like.dtype, device=like.device)


def _resized(tensor: Tensor, rows: int, positions: int) -> Tensor:
    new = _zeros(tensor, rows, positions)
    kept = (slice(min(rows, tensor.shape[0])), slice(None), slice(min(positions, tensor.shape[2])))
    new[kept] = tensor[kept]
    return new
