"""The models of an engine: all of them in memory, or the one that is needed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch

from handlers.chat.engine import ModelFacts
from handlers.chat.engines.transformers.batch import Batch
from handlers.chat.engines.transformers.chat_format import Source, Voice
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.memory import Demand, bytes_per_token, cache_budget, fits, longest_alone, rows_at_once
from handlers.chat.engines.transformers.prefix_cache import Prefixes
from handlers.chat.engines.transformers.sequence import Row
from shared.errors import DeviceError
from shared.models.device import vram_used_mb
from shared.telemetry import logger

# The share of the memory for keys and values that the beginnings of one model's prompts may take.
_PREFIXES = 1 / 16
# Seconds between two looks at those who wait while a model is being loaded.
_LOOK = 0.1


@dataclass(frozen=True)
class _Known:
    """What stays known of a model that is not in memory."""

    source: Source
    voice: Voice
    context_length: int
    bytes_per_token: int


class Models:
    """The models, and what is being written by each.

    Args:
        sources: The models. Each is loaded once at the beginning, so that none turns out to be damaged later.
        keeps_all: Whether all stay in memory; otherwise one does, at first the first.
        budget: Bytes for keys and values; None: what the device has left.

    Raises:
        SettingsError: A model cannot be loaded, or there is no memory beside them.

    Attributes:
        batches: What is being written, by the names of the models that are in memory.
    """

    def __init__(self, sources: Sequence[Source], *, keeps_all: bool, budget: int | None = None) -> None:
        self.batches: dict[str, Batch] = {}
        self._known: dict[str, _Known] = {}
        self._device = torch.device("cpu")
        loaded: dict[str, ChatModel] = {}
        left = []
        for source in reversed(sources):
            if not keeps_all:
                loaded.clear()
                _collect()
            loaded[source.name] = model = source.load()
            self._device = model.model.device
            token = bytes_per_token(model, source.name)
            self._known[source.name] = _Known(source, Voice(model, transcript=source.transcript), model.context_length, token)
            left.append(cache_budget(self._device) if budget is None else budget)
        whole = left[-1] if keeps_all else min(left)
        self._for_prefixes = int(whole * _PREFIXES)
        self._for_rows = whole - self._for_prefixes * len(sources)
        for name, model in loaded.items():
            self._open(name, model)

    @property
    def facts(self) -> dict[str, ModelFacts]:
        """What is known of each. A context is no longer than there is memory for."""
        return {
            name: ModelFacts(min(known.context_length, longest_alone(known.bytes_per_token, self._for_rows)), known.source.revision)
            for name, known in self._known.items()
        }

    @property
    def concurrency(self) -> int:
        """How many answers of usual length there is memory for at once."""
        return min(rows_at_once(known.bytes_per_token, known.context_length, self._for_rows) for known in self._known.values())

    @property
    def vram_used_mb(self) -> int:
        """MiB of the GPU's memory that were in use at most."""
        return vram_used_mb(self._device)

    @property
    def rows(self) -> list[Row]:
        """Everything that is being written."""
        return [row for batch in self.batches.values() for row in batch.rows]

    def voice(self, name: str) -> Voice:
        """How a model is written to."""
        return self._known[name].voice

    def have_room(self, joining: Iterable[Row]) -> bool:
        """Whether there is memory for these rows beside those that are being written."""
        rows = [*self.rows, *joining]
        demands = []
        for name, known in self._known.items():
            own = [row.most for row in rows if row.model == name]
            demands.append(Demand(known.bytes_per_token, len(own), max(own, default=0)))
        return fits(demands, self._for_rows)

    def bring(self, name: str, *, meanwhile: Callable[[], None], patience: float) -> None:
        """Puts a model in the place of the one that is in memory. Nothing may be being written.

        Args:
            name: Which.
            meanwhile: Called every tenth of a second while another thread loads it: those who wait may be stopped.
            patience: Seconds that it may take.

        Raises:
            SettingsError: It cannot be loaded any more.
            DeviceError: It has not been loaded in time.
        """
        self.batches.clear()
        _collect()
        reader = ThreadPoolExecutor(1, thread_name_prefix="load")
        loading = reader.submit(self._known[name].source.load)
        reader.shutdown(wait=False)
        ends = time.monotonic() + patience
        while not wait([loading], timeout=_LOOK).done:
            meanwhile()
            if time.monotonic() > ends:
                raise DeviceError("The model could not be loaded in time; the worker is replaced. Send the job again.")
        self._open(name, loading.result())
        logger().info("model switched", model=name)

    def close(self) -> None:
        """Lets go of the models."""
        self.batches.clear()
        _collect()

    def _open(self, name: str, model: ChatModel) -> None:
        self.batches[name] = Batch(model, Prefixes(self._for_prefixes // self._known[name].bytes_per_token))


def _collect() -> None:
    """Frees what nobody holds any more, at once: a model's parts refer to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
