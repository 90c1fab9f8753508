"""The thread that writes: it takes conversations in as memory allows and goes on with all of them together."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal

import torch

from handlers.chat.engine import ModelFacts
from handlers.chat.engines.transformers.chat_format import Source
from handlers.chat.engines.transformers.model_pool import Models
from handlers.chat.engines.transformers.sequence import Row
from handlers.chat.engines.transformers.stream import RowStream
from handlers.chat.refusals import no_such_model, too_long
from handlers.chat.request import ChatRequest
from shared.errors import Cancelled, DeviceError, JobError
from shared.jobs.execution.cancel import CancelToken
from shared.telemetry import log_error

# A network volume gives 15 GB within one to three minutes. One that gives nothing would keep everybody waiting for ever.
_PATIENCE = 600.0


class BatchingEngine:
    """Writes answers of one or more models, many at once, on one thread that nothing else computes on.

    Args:
        sources: The models it offers.
        resident: `both` keeps all in memory; `one` keeps the one that is needed, at first the first.
        budget: Bytes for keys and values; None: what the device has left.
        patience: Seconds that a model may take to be loaded in the place of another. Then the engine fails.

    Raises:
        SettingsError: A model cannot be loaded, or there is no memory beside them.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        resident: Literal["both", "one"] = "both",
        budget: int | None = None,
        patience: float = _PATIENCE,
    ) -> None:
        self._models = Models(sources, keeps_all=resident == "both", budget=budget)
        self._patience = patience
        self._waiting: deque[Row] = deque()
        self._arrived: list[Row] = []
        self._changed = threading.Condition()
        self._closing = False
        self._over: JobError | None = None
        # A daemon: a process that ends does not wait for conversations that may come.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        # It ends its step, all the same: the interpreter aborts when a thread comes back from torch to find it gone.
        atexit.register(self.close)

    @property
    def models(self) -> Mapping[str, ModelFacts]:
        """The models that requests may name, by name."""
        return self._models.facts

    @property
    def concurrency(self) -> int:
        """How many answers of usual length there is memory for at once."""
        return self._models.concurrency

    @property
    def vram_used_mb(self) -> int:
        """MiB of the GPU's memory that were in use at most."""
        return self._models.vram_used_mb

    def check(self, request: ChatRequest) -> None:
        """Refuses, before any work, what can never be written.

        Raises:
            ModelUnavailable: The model is not on this worker.
            ContextLengthExceeded: Prompt and answer do not fit; names both lengths.
            ValidationError: The schema of the answer cannot be followed.
        """
        if request.model not in self.models:
            raise no_such_model(request, self.models)
        voice, window = self._models.voice(request.model), self.models[request.model].context_length
        prompt = len(voice.prompt(request.messages).ids)
        if prompt + request.max_tokens > window:
            raise too_long(request, prompt, window)
        voice.check(request)

    def start(self, request: ChatRequest, cancel: CancelToken) -> RowStream:
        """Takes a request that `check` has let pass. Returns at once; where there is no place, the stream waits for one.

        Raises:
            DeviceError: The engine has failed.
            Cancelled: It was closed.
        """
        voice = self._models.voice(request.model)
        prompt = voice.prompt(request.messages)
        row = Row(request.model, prompt, voice.manner(request, prompt), cancel)
        with self._changed:
            if self._over is not None:
                raise self._over
            self._arrived.append(row)
            self._changed.notify()
        return row.stream

    def close(self) -> None:
        """Ends what is being written and lets go of the models."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        atexit.unregister(self.close)

    # On the engine's thread

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.push(self._end)
            with torch.inference_mode():
                while self._listen():
                    self._let_go()
                    self._switch()
                    self._take_in()
                    for batch in self._models.batches.values():
                        batch.turn()

    def _listen(self) -> bool:
        """Waits for something to do. False when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._arrived or self._waiting or self._models.rows)
            return not self._closing

    def _let_go(self) -> None:
        """Between two steps: ends those whose jobs were stopped, waiting or not."""
        with self._changed:
            self._waiting.extend(self._arrived)
            self._arrived.clear()
        self._waiting = deque(row for row in self._waiting if not row.stopped())
        for batch in self._models.batches.values():
            batch.leave(Row.stopped)

    def _switch(self) -> None:
        """Brings the model that the first of those who wait asks for, once the one in memory has ended what it has begun."""
        if not self._waiting or self._models.rows or (name := self._waiting[0].model) in self._models.batches:
            return
        self._models.bring(name, meanwhile=self._let_go, patience=self._patience)
        # Those who wait for the same model come with it, so that models take turns as seldom as can be.
        self._waiting = deque(sorted(self._waiting, key=lambda row: row.model != name))

    def _take_in(self) -> None:
        """Takes in those who wait, in their order, as far as there is memory."""
        joining: list[Row] = []
        while self._waiting and self._has_place(self._waiting[0], joining):
            joining.append(self._waiting.popleft())
        for name, batch in self._models.batches.items():
            if joining:
                batch.trim()
            batch.join(row for row in joining if row.model == name)

    def _has_place(self, row: Row, joining: Sequence[Row]) -> bool:
        if row.model not in self._models.batches:
            return False
        return len(self._models.rows) + len(joining) < self.concurrency and self._models.have_room([*joining, row])

    def _end(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Nobody waits for an engine that has ended, however it has ended."""
        over: JobError = Cancelled("The worker is being shut down.")
        if error is not None:
            over = DeviceError("The engine that writes answers has failed; the worker is replaced. Send the job again.")
            log_error("engine failed", error)
        with self._changed:
            self._over = over
            rows = [*self._arrived, *self._waiting, *self._models.rows]
        for row in rows:
            row.fail(over)
        if error is None:  # a GPU that is lost would refuse to give its memory back
            self._models.close()
        return isinstance(error, Exception)
