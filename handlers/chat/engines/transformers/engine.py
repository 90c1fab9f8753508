"""An in-process inference engine: continuous batching of one or more transformers models on one thread."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal

import torch
from pydantic import JsonValue

from handlers.chat.engine import ModelInfo
from handlers.chat.engines.transformers.chat_format import ModelSpec
from handlers.chat.engines.transformers.memory import MAX_NUM_SEQS
from handlers.chat.engines.transformers.model_pool import ModelPool
from handlers.chat.engines.transformers.sequence import SequenceState
from handlers.chat.engines.transformers.stream import SequenceStream
from handlers.chat.refusals import completion_limit, unknown_model
from handlers.chat.request import ChatRequest
from shared.errors import Cancelled, DeviceError, JobError
from shared.jobs.execution.cancel import CancelToken
from shared.telemetry import log_error

# Seconds. A network volume delivers 15 GB within one to three minutes; one that hangs must not block the worker for ever.
_SWAP_TIMEOUT = 600.0


class TransformersEngine:
    """Generates completions with continuous batching, on a thread that is the only one to compute on the device.

    Args:
        specs: The models to serve.
        resident: `both` keeps all models in memory; `one` swaps them on demand and starts with the first.
        budget: Bytes for the KV cache; None: the device's free memory.
        swap_timeout: Seconds that swapping a model in may take before the engine fails.

    Raises:
        WeightsError: A model cannot be loaded.
        SettingsError: A model is not supported, or no memory is left for the KV cache.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        *,
        resident: Literal["both", "one"] = "both",
        budget: int | None = None,
        swap_timeout: float = _SWAP_TIMEOUT,
    ) -> None:
        self._pool = ModelPool(specs, keep_all=resident == "both", budget=budget)
        self._swap_timeout = swap_timeout
        self._waiting: deque[SequenceState] = deque()  # owned by the engine thread
        self._submitted: list[SequenceState] = []
        self._changed = threading.Condition()  # guards `_submitted`, `_closing`, `_error` and `_on_failure`
        self._closing = False
        self._error: JobError | None = None
        self._on_failure: Callable[[], None] = lambda: None
        # A daemon, because it waits for requests for ever and must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        # The interpreter aborts if a daemon thread returns from torch during finalisation, so the running step is awaited.
        atexit.register(self.close)

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """The models that requests may name."""
        return self._pool.models

    @property
    def max_concurrency(self) -> int:
        """The number of completions of typical length that fit the KV-cache budget."""
        return self._pool.max_num_seqs

    @property
    def device(self) -> Mapping[str, JsonValue]:
        """The device's name and memory."""
        return self._pool.device

    def check(self, request: ChatRequest) -> None:
        """Rejects a request that this engine can never complete, before any work is done.

        Raises:
            ModelUnavailable: The model is not on this worker, or has no tools.
            ContextLengthExceeded: Prompt and `max_tokens` exceed the context window; the message gives both lengths.
            ValidationError: The JSON Schema of the response format is not supported.
        """
        if request.model not in self.models:
            raise unknown_model(request, self.models)
        chat_format, context_length = self._pool.chat_format(request.model), self.models[request.model].context_length
        chat_format.prompts.check(request, context_length)
        chat_format.check(request)

    def submit(self, request: ChatRequest, cancel: CancelToken) -> SequenceStream:
        """Queues a request that `check` has accepted. Returns immediately; the stream waits for admission if the engine is full.

        Raises:
            DeviceError: The engine has failed.
            Cancelled: The engine is closed.
        """
        chat_format = self._pool.chat_format(request.model)
        prompt = chat_format.prompts.take(request)
        max_tokens = completion_limit(request, len(prompt.ids), self.models[request.model].context_length)
        sequence = SequenceState(request.model, prompt, chat_format.decoding_params(request, prompt, max_tokens), cancel)
        with self._changed:
            if self._error is not None:
                raise self._error
            self._submitted.append(sequence)
            self._changed.notify()
        return sequence.stream

    def watch(self, on_failure: Callable[[], None]) -> None:
        """Calls back once the engine thread has failed."""
        with self._changed:
            self._on_failure = on_failure
            failed = isinstance(self._error, DeviceError)
        if failed:
            on_failure()

    def close(self) -> None:
        """Cancels running sequences and releases the models."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        atexit.unregister(self.close)

    # Engine thread

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.push(self._shut_down)
            with torch.inference_mode():
                while self._wait_for_work():
                    self._reap_cancelled()
                    self._swap_model()
                    self._admit()
                    for batch in self._pool.batches.values():
                        batch.step()

    def _wait_for_work(self) -> bool:
        """Blocks while there are no sequences. Returns False once the engine is closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._submitted or self._waiting or self._pool.sequences)
            return not self._closing

    def _reap_cancelled(self) -> None:
        """Queues submitted sequences, and ends the cancelled ones, queued or running, between two steps."""
        with self._changed:
            self._waiting.extend(self._submitted)
            self._submitted.clear()
        self._waiting = deque(sequence for sequence in self._waiting if not sequence.reap_if_cancelled())
        for batch in self._pool.batches.values():
            batch.remove(SequenceState.reap_if_cancelled)

    def _swap_model(self) -> None:
        """Swaps in the model of the first waiting sequence, once the resident model has no running sequences."""
        if not self._waiting or self._pool.sequences or (name := self._waiting[0].model) in self._pool.batches:
            return
        self._pool.swap_in(name, poll=self._reap_cancelled, timeout=self._swap_timeout)
        # Sequences for this model move to the front of the queue, to minimise the number of swaps.
        self._waiting = deque(sorted(self._waiting, key=lambda sequence: sequence.model != name))

    def _admit(self) -> None:
        """Admits waiting sequences in order, as far as the KV-cache budget allows."""
        admitted: list[SequenceState] = []
        while self._waiting and self._can_admit(self._waiting[0], admitted):
            admitted.append(self._waiting.popleft())
        for name, batch in self._pool.batches.items():
            if admitted:
                batch.trim()
            batch.add(sequence for sequence in admitted if sequence.model == name)

    def _can_admit(self, sequence: SequenceState, admitted: Sequence[SequenceState]) -> bool:
        if sequence.model not in self._pool.batches:
            return False
        # Memory limits short conversations less than those of typical length, by which jobs are counted.
        has_row = len(self._pool.sequences) + len(admitted) < MAX_NUM_SEQS
        return has_row and self._pool.has_memory_for([*admitted, sequence])

    def _shut_down(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Fails every remaining sequence, after an error or on `close`: otherwise their consumers would block for ever."""
        reason: JobError = Cancelled("The worker is shutting down.")
        if error is not None:
            reason = DeviceError("The inference engine has failed; the worker is replaced. Send the job again.")
            log_error("engine failed", error)
        with self._changed:
            self._error = reason
            on_failure = self._on_failure
            sequences = [*self._submitted, *self._waiting, *self._pool.sequences]
        for sequence in sequences:
            sequence.fail(reason)
        if error is None:  # a lost GPU cannot release memory
            self._pool.close()
        else:
            on_failure()
        return isinstance(error, Exception)
