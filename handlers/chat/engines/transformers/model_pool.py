"""The models of an engine: all resident in memory, or one at a time, swapped in on demand."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from pydantic import JsonValue

from handlers.chat.engine import ModelInfo
from handlers.chat.engines.transformers.batch import Batch
from handlers.chat.engines.transformers.chat_format import ChatFormat, ModelSpec
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.memory import (
    CacheDemand,
    fits,
    kv_cache_budget,
    max_model_len,
    max_num_seqs,
    measure_bytes_per_token,
)
from handlers.chat.engines.transformers.prefix_cache import PrefixCache
from handlers.chat.engines.transformers.sequence import SequenceState
from shared.errors import DeviceError
from shared.models.device import describe_device
from shared.network.deadline import Deadline
from shared.telemetry import logger

# The fraction of the KV-cache budget that each model's prefix cache may take.
_PREFIX_CACHE_FRACTION = 1 / 16
# Seconds between two calls of `poll` while a model is being loaded.
_POLL_INTERVAL = 0.1


@dataclass(frozen=True)
class _PoolEntry:
    """What is kept of a model while it is not in memory."""

    spec: ModelSpec
    chat_format: ChatFormat
    context_length: int
    bytes_per_token: int


class ModelPool:
    """Loads and swaps models, and accounts for their KV-cache memory. Not thread-safe, except for reading `models` and `chat_format`.

    Args:
        specs: The models. Each is loaded once at start-up, so that a damaged one is found then.
        keep_all: Whether all stay resident; otherwise one does, initially the first.
        budget: Bytes for the KV cache; None: the device's free memory.

    Raises:
        WeightsError: A model cannot be loaded.
        SettingsError: A model is not supported, or no memory is left for the KV cache.

    Attributes:
        batches: The running batch of each resident model, by name.
    """

    def __init__(self, specs: Sequence[ModelSpec], *, keep_all: bool, budget: int | None = None) -> None:
        self.batches: dict[str, Batch] = {}
        self._entries: dict[str, _PoolEntry] = {}
        self._device = torch.device("cpu")
        loaded: dict[str, ChatModel] = {}
        budgets = []
        for spec in reversed(specs):
            if not keep_all:
                loaded.clear()
                _free_memory()
            loaded[spec.name] = model = spec.load()
            self._device = model.model.device
            chat_format = ChatFormat(model, transcript=spec.transcript)
            bytes_per_token = measure_bytes_per_token(model, spec.name)
            self._entries[spec.name] = _PoolEntry(spec, chat_format, model.context_length, bytes_per_token)
            budgets.append(kv_cache_budget(self._device) if budget is None else budget)
        total = budgets[-1] if keep_all else min(budgets)
        self._prefix_budget = int(total * _PREFIX_CACHE_FRACTION)
        self._sequence_budget = total - self._prefix_budget * len(specs)
        for name, model in loaded.items():
            self._create_batch(name, model)

    @property
    def models(self) -> dict[str, ModelInfo]:
        """The models by name. A context window is no longer than the KV-cache budget allows."""
        return {
            name: ModelInfo(min(entry.context_length, max_model_len(entry.bytes_per_token, self._sequence_budget)), entry.spec.revision)
            for name, entry in self._entries.items()
        }

    @property
    def max_num_seqs(self) -> int:
        """The number of sequences of typical length that fit the KV-cache budget."""
        return min(max_num_seqs(entry.bytes_per_token, entry.context_length, self._sequence_budget) for entry in self._entries.values())

    @property
    def device(self) -> Mapping[str, JsonValue]:
        """The device's name and memory."""
        return describe_device(self._device)

    @property
    def sequences(self) -> list[SequenceState]:
        """All admitted sequences."""
        return [sequence for batch in self.batches.values() for sequence in batch.sequences]

    def chat_format(self, name: str) -> ChatFormat:
        """Returns a model's chat format, whether the model is resident or not."""
        return self._entries[name].chat_format

    def has_memory_for(self, new: Iterable[SequenceState]) -> bool:
        """Whether the KV-cache budget admits these sequences in addition to those that are running."""
        sequences = [*self.sequences, *new]
        demands = []
        for name, entry in self._entries.items():
            lengths = [sequence.max_length for sequence in sequences if sequence.model == name]
            demands.append(CacheDemand(entry.bytes_per_token, len(lengths), max(lengths, default=0)))
        return fits(demands, self._sequence_budget)

    def swap_in(self, name: str, *, poll: Callable[[], None], timeout: float) -> None:
        """Replaces the resident model by another one. No sequence may be running.

        Args:
            name: The model to load.
            poll: Called every tenth of a second while another thread loads the model, to reap cancelled sequences.
            timeout: Seconds that loading may take.

        Raises:
            WeightsError: The model can no longer be loaded.
            DeviceError: Loading has timed out.
        """
        self.batches.clear()
        _free_memory()
        loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        loading = loader.submit(self._entries[name].spec.load)
        loader.shutdown(wait=False)
        deadline = Deadline(timeout)
        while not wait([loading], timeout=_POLL_INTERVAL).done:
            poll()
            if deadline.expired:
                raise DeviceError("The model could not be loaded in time; the worker is replaced. Send the job again.")
        self._create_batch(name, loading.result())
        logger().info("model swapped in", model=name)

    def close(self) -> None:
        """Releases the models."""
        self.batches.clear()
        _free_memory()

    def _create_batch(self, name: str, model: ChatModel) -> None:
        self.batches[name] = Batch(model, PrefixCache(self._prefix_budget // self._entries[name].bytes_per_token))


def _free_memory() -> None:
    """Frees unreferenced models at once: their modules form reference cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
