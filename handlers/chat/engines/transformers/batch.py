"""The running batch of one model: continuous batching with chunked prefill.

A step prefills a bounded chunk of waiting prompts and then decodes one token of every running sequence in one forward pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from handlers.chat.engines.transformers.device_inputs import DeviceInputs
from handlers.chat.engines.transformers.kv_cache import KVCache, forward
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.prefix_cache import PrefixCache, TokenIds
from handlers.chat.engines.transformers.sampling.step import SamplingStep
from handlers.chat.engines.transformers.sequence import SequenceState
from shared.errors import JobError, OutOfMemory
from shared.models.oom import run_once

T = TypeVar("T")

# The prefill token budget of a step, by device: about the time of a few decode steps. On a CPU, twice as many lengthen the pauses of
# running sequences by half and gain little; half as many cost up to a tenth of the throughput.
_PREFILL_TOKENS = {"cuda": 512, "cpu": 256}


@dataclass
class SharedPrefix:
    """A prompt prefix that is prefilled once for all sequences that wait for it."""

    ids: TokenIds
    waiting: list[SequenceState]
    length: int = 0

    @property
    def remaining_prompt(self) -> Sequence[int]:
        """The part of the prefix that has not been prefilled."""
        return self.ids[self.length :]


Prefillable = SequenceState | SharedPrefix


@dataclass
class PrefillGroup:
    """Prompts that are prefilled in the same forward passes: several short ones in one pass, or a long one in several."""

    members: Sequence[Prefillable]
    cache: KVCache | None = None

    def tokens(self, budget: int) -> int:
        """Returns the tokens of its next pass, with padding, if a chunk has at most `budget`."""
        longest = max((len(member.remaining_prompt) for member in self.members), default=0)
        return min(longest, budget) * len(self.members)

    def sampled(self, tokens: int) -> list[SequenceState]:
        """Returns the sequences whose prompts end after so many more tokens of each: all or none."""
        ended = len(self.members[0].remaining_prompt) <= tokens
        return [member for member in self.members if isinstance(member, SequenceState) and ended]


@dataclass(frozen=True)
class Forwarded:
    """The result of a forward pass: logits, rows × vocabulary, and the sampling of the rows."""

    logits: Tensor
    sampling: SamplingStep

    def sample(self) -> list[int | JobError]:
        """Samples the next token of each row."""
        return self.sampling.sample(self.logits)


class Batch:
    """The sequences of one model that have been admitted.

    Args:
        model: The model.
        prefixes: The model's prefix cache.
    """

    def __init__(self, model: ChatModel, prefixes: PrefixCache) -> None:
        self._model = model.model
        self._vocabulary_size = len(model.tokenizer)  # ids from here on are padding of the embedding and never sampled
        self._layers = model.layers
        self._prefill_tokens = _PREFILL_TOKENS.get(self._model.device.type, _PREFILL_TOKENS["cpu"])
        self._prefixes = prefixes
        self._prefill_queue: deque[PrefillGroup] = deque()
        self._shared_prefixes: dict[TokenIds, SharedPrefix] = {}
        self._running: list[SequenceState] = []  # in decode; the index is the row of the cache
        self._cache = KVCache(self._layers, 0, 0)

    @property
    def sequences(self) -> list[SequenceState]:
        """All sequences, in prefill or in decode."""
        prefilling = [member for group in self._prefill_queue for member in group.members if isinstance(member, SequenceState)]
        return [*self._running, *prefilling, *(sequence for prefix in self._shared_prefixes.values() for sequence in prefix.waiting)]

    def add(self, sequences: Iterable[SequenceState]) -> None:
        """Adds sequences. Those with the same uncached prefix wait until it has been prefilled."""
        ready = []
        for sequence in sequences:
            ids = tuple(sequence.prompt[: sequence.prefix_length]) if sequence.prefix_length <= self._prefixes.capacity else ()
            if ids and (cached := self._prefixes.get(ids)) is not None:
                sequence.attach_prefix(cached, cached=True)
            if sequence.prefix is not None or not ids:
                ready.append(sequence)
            elif ids in self._shared_prefixes:
                self._shared_prefixes[ids].waiting.append(sequence)
            else:
                self._shared_prefixes[ids] = SharedPrefix(ids, [sequence])
                self._prefill_queue.append(PrefillGroup([self._shared_prefixes[ids]]))
        self._enqueue_prefill(ready)

    def remove(self, has_ended: Callable[[SequenceState], bool]) -> None:
        """Removes sequences that ended for another reason than their own tokens, and frees their rows.

        Args:
            has_ended: Called once for each sequence.
        """
        for prefix in self._shared_prefixes.values():
            prefix.waiting = [sequence for sequence in prefix.waiting if not has_ended(sequence)]
        for group in self._prefill_queue:
            # Members of a group that has a cache already keep their rows: such a group has one member.
            group.members = [member for member in group.members if isinstance(member, SharedPrefix) or not has_ended(member)]
        self._remove_rows([index for index, sequence in enumerate(self._running) if has_ended(sequence)])

    def trim(self) -> None:
        """Frees KV-cache memory that the running sequences do not need."""
        self._cache.trim(len(self._running), self._width())

    def step(self) -> None:
        """Prefills prompts up to the token budget, and decodes one token of every running sequence."""
        prefilled = 0
        while self._prefill_queue and prefilled + self._prefill_queue[0].tokens(self._prefill_tokens) <= self._prefill_tokens:
            # Popped only after the pass: if the device fails, the engine still finds these sequences and fails their streams.
            prefilled += self._prefill(self._prefill_queue[0])
            self._prefill_queue.popleft()
        if self._running:
            self._decode()

    def _width(self) -> int:
        return max((sequence.length for sequence in self._running), default=-1) + 1

    # Prefill

    def _enqueue_prefill(self, sequences: Iterable[SequenceState]) -> None:
        """Groups short prompts, so that a padded group fits the token budget."""
        group: list[SequenceState] = []
        for sequence in sequences:
            longest = max(len(member.remaining_prompt) for member in (*group, sequence))
            if group and longest * (len(group) + 1) > self._prefill_tokens:
                self._prefill_queue.append(PrefillGroup(group))
                group = []
            group.append(sequence)
        if group:
            self._prefill_queue.append(PrefillGroup(group))

    def _prefill(self, group: PrefillGroup) -> int:
        """Prefills one chunk of each member's prompt. Returns the number of tokens, with padding."""
        if not group.members:
            return 0
        chunks = [member.remaining_prompt[: self._prefill_tokens] for member in group.members]
        lengths = [member.length for member in group.members]

        def work() -> tuple[KVCache, Forwarded]:
            group.cache = group.cache or self._prefill_cache(group.members)
            return group.cache, self._forward(group.cache, chunks, lengths, group.sampled(len(chunks[0])))

        if (done := self._run_twice(work)) is None:
            self._fail_out_of_memory(group)
            return 0
        cache, forwarded = done
        for member, chunk in zip(group.members, chunks, strict=True):
            member.length += len(chunk)
        if group.members[0].remaining_prompt:
            self._prefill_queue.append(group)  # to the back, so that a long prompt does not delay the others
        else:
            self._finish_prefill(group.members, cache, forwarded)
        return max(map(len, chunks)) * len(chunks)

    def _forward(
        self, cache: KVCache, inputs: Sequence[Sequence[int]], lengths: Sequence[int], sampled: Sequence[SequenceState]
    ) -> Forwarded:
        """Runs a forward pass, and sends what sampling takes along with its inputs."""
        device_inputs = DeviceInputs(self._model.device)
        sampling = SamplingStep([sequence.sampler for sequence in sampled], self._vocabulary_size, device_inputs)
        return Forwarded(forward(self._model, cache, inputs, lengths, device_inputs), sampling)

    def _prefill_cache(self, members: Sequence[Prefillable]) -> KVCache:
        # One position more than the longest, for padding.
        cache = KVCache(self._layers, len(members), 1 + max(member.length + len(member.remaining_prompt) for member in members))
        for row, member in enumerate(members):
            if isinstance(member, SequenceState) and member.prefix is not None:
                cache.copy_row(row, member.prefix, 0, member.length)
        for member in members:
            if isinstance(member, SequenceState):
                member.prefix = None
        return cache

    def _finish_prefill(self, members: Sequence[Prefillable], cache: KVCache, forwarded: Forwarded) -> None:
        if isinstance(prefix := members[0], SharedPrefix):
            self._release_waiting(prefix, cache, cacheable=bool(forwarded.logits.isfinite().all()))
            return
        sequences = [member for member in members if isinstance(member, SequenceState)]
        tokens = forwarded.sample()
        for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            if not sequence.append(token):
                self._start_decoding(sequence, cache, row)

    def _release_waiting(self, prefix: SharedPrefix, cache: KVCache, *, cacheable: bool) -> None:
        """Continues the sequences that waited for a prefix."""
        if cacheable:
            self._prefixes.put(prefix.ids, cache)
        for index, sequence in enumerate(prefix.waiting):
            sequence.attach_prefix(cache, cached=index > 0)
        del self._shared_prefixes[prefix.ids]
        self._enqueue_prefill(prefix.waiting)

    def _fail_out_of_memory(self, group: PrefillGroup) -> None:
        """Fails the sequences of a group whose prefill ran out of memory; the others continue."""
        for member in group.members:
            sequences = self._shared_prefixes.pop(member.ids).waiting if isinstance(member, SharedPrefix) else [member]
            for sequence in sequences:
                sequence.fail(_out_of_memory())

    # Decode

    def _start_decoding(self, sequence: SequenceState, cache: KVCache, row: int) -> None:
        """Copies a prefilled sequence into the batch's own cache."""
        new_row = len(self._running)
        width = max(sequence.length + 1, self._width())

        def work() -> bool:
            self._cache.grow(new_row + 1, width)
            self._cache.copy_row(new_row, cache, row, sequence.length)
            return True

        if self._run_twice(work):
            self._running.append(sequence)
        else:
            sequence.fail(_out_of_memory())

    def _decode(self) -> None:
        """Decodes one token of every running sequence. On out-of-memory the longest one fails and the others retry at the next step."""
        running, width = self._running, self._width()
        inputs, lengths = [(sequence.last_token,) for sequence in running], [sequence.length for sequence in running]

        def work() -> Forwarded:
            self._cache.grow(len(running), width)
            return self._forward(self._cache, inputs, lengths, running)

        if (forwarded := self._run_twice(work)) is None:
            longest = max(range(len(running)), key=lambda row: running[row].length)
            running[longest].fail(_out_of_memory())
            self._remove_rows([longest])
            self.trim()
            return
        for sequence in running:
            sequence.length += 1
        tokens = forwarded.sample()
        ended = [row for row, (sequence, token) in enumerate(zip(running, tokens, strict=True)) if sequence.append(token)]
        for row in ended:
            if isinstance(tokens[row], JobError):  # its values may not be finite
                self._cache.zero_row(row)
        self._remove_rows(ended)

    def _run_twice(self, work: Callable[[], T]) -> T | None:
        """Runs work. After a first shortage of memory, frees the caches and tries again; returns None after a second one.

        Args:
            work: Must be safe to retry.
        """
        enough, result = run_once(work)
        if not enough:
            self._prefixes.clear()
            enough, result = run_once(work)
        return result

    def _remove_rows(self, rows: Sequence[int]) -> None:
        """Removes running sequences; the last row moves into each gap."""
        for row in sorted(rows, reverse=True):
            last = self._running.pop()
            if row < len(self._running):
                self._cache.copy_row(row, self._cache, len(self._running), last.length)
                self._running[row] = last
        if not self._running:
            self._cache = KVCache(self._layers, 0, 0)


def _out_of_memory() -> OutOfMemory:
    return OutOfMemory("There was not enough memory for this conversation. Shorten it or reduce `max_tokens`.")
