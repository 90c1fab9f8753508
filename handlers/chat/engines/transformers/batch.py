"""The conversations that one model writes: prompts are read in bounded pieces, answers are written together, one token of each per step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from handlers.chat.engines.transformers.kv_cache import RowCache, forward
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.prefix_cache import Ids, Prefixes
from handlers.chat.engines.transformers.sampler import choose
from handlers.chat.engines.transformers.sequence import Row
from shared.errors import OutOfMemory

# Tokens of prompts that are read between two steps of those who are being answered: about as long as some steps take.
_CHUNK = {"cuda": 512, "cpu": 128}


@dataclass
class _Beginning:
    """What some prompts begin with, while it is read for all of them."""

    ids: Ids
    waiting: list[Row]
    length: int = 0

    @property
    def unread(self) -> Sequence[int]:
        return self.ids[self.length :]


@dataclass
class _Reading:
    """Prompts that are read together: several short ones in one piece, or one in several."""

    readers: Sequence[Row | _Beginning]
    cache: RowCache | None = None


class Batch:
    """All rows of one model.

    Args:
        model: The model; what its rows take is beside it.
        prefixes: What prompts begin with.
    """

    def __init__(self, model: ChatModel, prefixes: Prefixes) -> None:
        self._model = model.model
        self._vocabulary = len(model.tokenizer)  # ids from here on are padding of the embedding and never chosen
        self._layers = model.layers
        self._chunk = _CHUNK.get(self._model.device.type, _CHUNK["cpu"])
        self._prefixes = prefixes
        self._readings: deque[_Reading] = deque()
        self._beginnings: dict[Ids, _Beginning] = {}
        self._writing: list[Row] = []
        self._cache = RowCache(self._layers, 0, 0)

    @property
    def rows(self) -> list[Row]:
        """All of them, those whose prompts are still being read included."""
        reading = [reader for group in self._readings for reader in group.readers if isinstance(reader, Row)]
        return [*self._writing, *reading, *(row for beginning in self._beginnings.values() for row in beginning.waiting)]

    def join(self, rows: Iterable[Row]) -> None:
        """Takes rows in. Those that begin alike wait until that beginning has been read."""
        ready = []
        for row in rows:
            ids = tuple(row.prompt[: row.shared]) if row.shared <= self._prefixes.room else ()
            if ids and (held := self._prefixes.get(ids)) is not None:
                row.begin(held, cached=True)
            if row.beginning is not None or not ids:
                ready.append(row)
            elif ids in self._beginnings:
                self._beginnings[ids].waiting.append(row)
            else:
                self._beginnings[ids] = _Beginning(ids, [row])
                self._readings.append(_Reading([self._beginnings[ids]]))
        self._read_together(ready)

    def leave(self, gone: Callable[[Row], bool]) -> None:
        """Lets rows go that end otherwise than by their own tokens. Their places are free when it returns.

        Args:
            gone: Says of a row whether it has ended. Asked once of each.
        """
        for beginning in self._beginnings.values():
            beginning.waiting = [row for row in beginning.waiting if not gone(row)]
        for group in self._readings:
            # A group that has been read in part is one row.
            group.readers = [reader for reader in group.readers if isinstance(reader, _Beginning) or not gone(reader)]
        self._drop([index for index, row in enumerate(self._writing) if gone(row)])

    def trim(self) -> None:
        """Gives back memory that is not needed for what is being written now."""
        self._cache.trim(len(self._writing), self._width())

    def turn(self) -> None:
        """Reads a bounded piece of the prompts, and writes one token of each answer."""
        read = 0
        while self._readings and read < self._chunk:
            # It stays the first meanwhile: were the GPU lost now, its rows would be among those who are told.
            read += self._read(self._readings[0])
            self._readings.popleft()
        if self._writing:
            self._write()

    def _width(self) -> int:
        return max((row.length for row in self._writing), default=-1) + 1

    # Reading

    def _read_together(self, rows: Iterable[Row]) -> None:
        group: list[Row] = []
        for row in rows:
            longest = max(len(member.unread) for member in (*group, row))
            if group and longest * (len(group) + 1) > self._chunk:
                self._readings.append(_Reading(group))
                group = []
            group.append(row)
        if group:
            self._readings.append(_Reading(group))

    def _read(self, group: _Reading) -> int:
        """Reads a piece of a group's prompts, and returns how many tokens that was."""
        if not group.readers:
            return 0
        pieces = [reader.unread[: self._chunk] for reader in group.readers]
        try:
            cache = group.cache = group.cache or self._begun(group.readers)
            logits = forward(self._model, cache, pieces, [reader.length for reader in group.readers])
        except torch.OutOfMemoryError:
            self._refuse(group)
            return 0
        for reader, piece in zip(group.readers, pieces, strict=True):
            reader.length += len(piece)
        if group.readers[0].unread:
            self._readings.append(group)  # behind the others, so that they are not held back by a long one
        else:
            self._done(group.readers, cache, logits)
        return sum(map(len, pieces))

    def _begun(self, readers: Sequence[Row | _Beginning]) -> RowCache:
        # One column more than the longest, for padding.
        cache = RowCache(self._layers, len(readers), 1 + max(reader.length + len(reader.unread) for reader in readers))
        for index, reader in enumerate(readers):
            if isinstance(reader, Row) and reader.beginning is not None:
                cache.take(index, reader.beginning, 0, reader.length)
                reader.beginning = None
        return cache

    def _done(self, readers: Sequence[Row | _Beginning], cache: RowCache, logits: Tensor) -> None:
        if isinstance(beginning := readers[0], _Beginning):
            self._remember(beginning, cache, sound=bool(logits.isfinite().all()))
            return
        rows = [reader for reader in readers if isinstance(reader, Row)]
        tokens = choose(logits[:, : self._vocabulary], [row.chooser for row in rows])
        for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if not row.take(token):
                self._adopt(row, cache, index)

    def _remember(self, beginning: _Beginning, cache: RowCache, *, sound: bool) -> None:
        if sound:
            self._prefixes.put(beginning.ids, cache)
        for index, row in enumerate(beginning.waiting):
            row.begin(cache, cached=index > 0)
        del self._beginnings[beginning.ids]
        self._read_together(beginning.waiting)

    def _refuse(self, group: _Reading) -> None:
        """There is no memory for these prompts: the others go on."""
        for reader in group.readers:
            rows = [reader]
            if isinstance(reader, _Beginning):
                rows = [*self._beginnings.pop(reader.ids).waiting]
            for row in rows:
                row.fail(_out_of_memory())  # type: ignore[union-attr]

    # Writing

    def _adopt(self, row: Row, cache: RowCache, index: int) -> None:
        place = len(self._writing)
        try:
            self._cache.grow(place + 1, max(row.length + 1, self._width()))
            self._cache.take(place, cache, index, row.length)
        except torch.OutOfMemoryError:
            row.fail(_out_of_memory())
        else:
            self._writing.append(row)

    def _write(self) -> None:
        rows = self._writing
        try:
            self._cache.grow(len(rows), self._width())
            logits = forward(self._model, self._cache, [(row.last,) for row in rows], [row.length for row in rows])
        except torch.OutOfMemoryError:
            longest = max(range(len(rows)), key=lambda index: rows[index].length)
            rows[longest].fail(_out_of_memory())
            self._drop([longest])
            self.trim()
            return
        for row in rows:
            row.length += 1
        tokens = choose(logits[:, : self._vocabulary], [row.chooser for row in rows])
        gone = [index for index, (row, token) in enumerate(zip(rows, tokens, strict=True)) if row.take(token)]
        for index in gone:
            if tokens[index] is None:
                self._cache.wipe(index)
        self._drop(gone)

    def _drop(self, indices: Sequence[int]) -> None:
        """Takes rows out; the last one moves to where one was."""
        for index in sorted(indices, reverse=True):
            last = self._writing.pop()
            if index < len(self._writing):
                self._cache.take(index, self._cache, len(self._writing), last.length)
                self._writing[index] = last
        if not self._writing:
            self._cache = RowCache(self._layers, 0, 0)


def _out_of_memory() -> OutOfMemory:
    return OutOfMemory("Memory did not suffice for this conversation: shorten it, or ask for a smaller max_tokens.")
