"""Keys and values of several conversations: a cache of transformers in which every row is as long as it is.

A row begins at column 0 and ends where it ends, so a conversation joins by a copy of its own columns and leaves by one move of the last
row; nobody else's are touched. What is behind a row's end is masked, and finite: zeros, or what stood there before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

COLUMNS = 256
"""A cache grows by so many at once; a copy for each token would cost more than the token."""


@dataclass
class _Aim:
    """Where the next keys and values go, and how far the rows reach then.

    Attributes:
        columns: Rows × tokens; -1, the column behind all others, for padding. None: the same for all rows, the last before `width`.
        rows: The number of each row, beside its columns.
        width: Columns that are looked at.
    """

    columns: Tensor | None = None
    rows: Tensor | None = None
    width: int = 0


class _Layer(CacheLayerMixin):
    """One layer's keys and values, each rows × heads × columns × size of a head."""

    is_sliding = False

    def __init__(self, aim: _Aim, rows: int, columns: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers is typed in part
        self._aim = aim
        self._shape = (rows, columns)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (_zeros(states, *self._shape) for states in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes what is new where it belongs, and returns the rows as far as they reach."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        seen = [self._write(held, new) for held, new in ((self._held(0), key_states), (self._held(1), value_states))]
        return seen[0], seen[1]

    def _held(self, which: int) -> Tensor:
        held = (self.keys, self.values)[which]
        if held is None:
            raise RuntimeError("a layer has no memory")
        return held

    def _write(self, held: Tensor, new: Tensor) -> Tensor:
        rows, width, columns = new.shape[0], self._aim.width, self._aim.columns
        if columns is None:
            held[:rows, :, width - new.shape[2] : width] = new
        else:
            held[self._aim.rows, :, columns] = new.transpose(1, 2)
        return held[:rows, :, :width]

    def resize(self, rows: int, columns: int) -> None:
        """Gives the layer another shape; what fits in it stays."""
        self._shape = (rows, columns)
        if self.is_initialized:
            self.keys, self.values = (_resized(self._held(which), rows, columns) for which in (0, 1))

    def copy(self, row: int, source: _Layer, source_row: int, length: int) -> None:
        """Takes over the first columns of another layer's row, which may be a row of its own."""
        for which in (0, 1):
            theirs = source._held(which)
            if not self.is_initialized:
                self.lazy_initialization(source._held(0), source._held(1))
            self._held(which)[row, :, :length] = theirs[source_row, :, :length]

    def wipe(self, row: int) -> None:
        for which in (0, 1):
            self._held(which)[row].zero_()

    def get_seq_length(self) -> int:
        return self._aim.width if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._aim.width, 0

    def get_max_length(self) -> int:
        return -1

    @property
    def bytes_per_token(self) -> int:
        return sum(self._held(which)[0, :, 0].numel() * self._held(which).element_size() for which in (0, 1))


class RowCache(Cache):
    """A cache whose rows are conversations.

    Args:
        layers: How many the model has.
        rows: How many there is memory for.
        columns: How many tokens of each there is memory for.
    """

    def __init__(self, layers: int, rows: int, columns: int) -> None:
        self.shape = (rows, columns)
        self._aim = _Aim()
        self._rows: list[_Layer] = [_Layer(self._aim, rows, columns) for _ in range(layers)]
        super().__init__(layers=list(self._rows))

    def aim(self, columns: Tensor | None, width: int) -> None:
        """Says where the next forward pass writes.

        Args:
            columns: Rows × tokens, int64; -1 for padding, for which there must be one more column than `width`. None where all rows write
                to the last columns before `width`.
            width: How far the longest row reaches then.
        """
        self._aim.columns, self._aim.width = columns, width
        self._aim.rows = torch.arange(len(columns), device=columns.device)[:, None] if columns is not None else None

    def grow(self, rows: int, columns: int) -> None:
        """Makes room for so many rows and columns, where there is not."""
        if rows > self.shape[0] or columns > self.shape[1]:
            self._resize(max(rows, self.shape[0]), max(round_up(columns), self.shape[1]))

    def trim(self, rows: int, columns: int) -> None:
        """Gives back what is more than so many rows and columns."""
        smaller = (min(rows, self.shape[0]), min(round_up(columns), self.shape[1]))
        if smaller != self.shape:
            self._resize(*smaller)

    def _resize(self, rows: int, columns: int) -> None:
        for layer in self._rows:  # one after the other, so that never more than one layer is in memory twice
            layer.resize(rows, columns)
        self.shape = (rows, columns)

    def take(self, row: int, source: RowCache, source_row: int, length: int) -> None:
        """Copies the first `length` columns of a row of `source`, which may be this cache, to a row."""
        for layer, theirs in zip(self._rows, source._rows, strict=True):
            layer.copy(row, theirs, source_row, length)

    def wipe(self, row: int) -> None:
        """Puts zeros where a row has numbers that are not finite: masked or not, they would spoil whoever takes its place."""
        for layer in self._rows:
            layer.wipe(row)

    @property
    def bytes_per_token(self) -> int:
        """What a token takes in all layers. Known after the first forward pass."""
        return sum(layer.bytes_per_token for layer in self._rows)


def forward(model: Any, cache: RowCache, pieces: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
    """Reads tokens of several rows.

    Args:
        model: A causal language model of transformers.
        cache: Has rows × the columns that are reached, and one more where pieces differ in length.
        pieces: For each row, from the first on, the tokens to be read; at least one.
        lengths: How many tokens of each row have been read before.

    Returns:
        The logits behind each piece, rows × vocabulary.
    """
    longest, width = max(map(len, pieces)), max(length + len(piece) for piece, length in zip(pieces, lengths, strict=True))
    padding = [longest - len(piece) for piece in pieces]
    ids = torch.tensor([[0] * pad + list(piece) for piece, pad in zip(pieces, padding, strict=True)], device=model.device)
    places = [[-1] * pad + list(range(length, length + longest - pad)) for pad, length in zip(padding, lengths, strict=True)]
    columns = torch.tensor(places, device=model.device)
    # All rows alike need no mask, or the plain causal one, for which there are faster kernels.
    alike = not any(padding) and len(set(lengths)) == 1
    plain = alike and (longest == 1 or lengths[0] == 0)
    cache.aim(None if alike else columns, width)
    positions = columns.clamp(min=0)
    mask = None if plain else _mask(positions, width, model.dtype)
    logits: Tensor = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
    ).logits[:, -1]
    return logits


def _mask(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """What is added to attention, rows × 1 × tokens × columns: nothing up to a token's own column, and what leaves nothing behind it.

    Numbers, not booleans: every kind of attention takes them, and no layer has to turn the one into the other again.
    """
    behind = torch.arange(width, device=positions.device) > positions[..., None]
    return torch.zeros(behind.shape, dtype=dtype, device=behind.device).masked_fill_(behind, torch.finfo(dtype).min)[:, None]


def round_up(columns: int) -> int:
    """The columns that a cache takes for so many tokens."""
    return -(-columns // COLUMNS) * COLUMNS


def _zeros(like: Tensor, rows: int, columns: int) -> Tensor:
    return torch.zeros(rows, like.shape[1], columns, like.shape[3], dtype=like.dtype, device=like.device)


def _resized(held: Tensor, rows: int, columns: int) -> Tensor:
    new = _zeros(held, rows, columns)
    kept = (slice(min(rows, held.shape[0])), slice(None), slice(min(columns, held.shape[2])))
    new[kept] = held[kept]
    return new
