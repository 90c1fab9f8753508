"""The choices of a job, one completion each: their text is masked and split into content and tool calls while it is generated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue

from handlers.chat.choice_delta import ChoiceDelta, ToolCall
from handlers.chat.engine import Completion, CompletionStream, Delta, InferenceEngine
from handlers.chat.logprobs import TokenLogprob
from handlers.chat.masking import IncrementalMasker, WordList
from handlers.chat.messages import transform_texts
from handlers.chat.request import ChatRequest
from handlers.chat.tools.parser import FunctionCall, split_calls
from shared.contract.fields import batch_seeds
from shared.jobs.execution.cancel import CancelToken

_ID_LENGTH = 24


class Choice:
    """One choice while it is generated.

    Args:
        index: Its position.
        request: The request.
        words: The words to mask.
        job_id: RunPod's id of the job, from which the ids of calls are derived.

    Attributes:
        text: The masked content so far. It only grows.
        tool_calls: The calls so far.
        logprobs: The log probabilities so far.
        tokens: The tokens so far.
        seed: Its seed.
    """

    def __init__(self, index: int, request: ChatRequest, words: WordList, job_id: str) -> None:
        self.text = ""
        self.tool_calls: tuple[ToolCall, ...] = ()
        self.logprobs: tuple[TokenLogprob, ...] = ()
        self.tokens = 0
        self.seed = batch_seeds(request.seed, request.n)[index]
        self._index = index
        self._names = frozenset(tool.function.name for tool in request.callable_tools)
        self._words = words
        self._id = f"{job_id}/{index}"
        self._raw: list[str] = []
        self._content = ""
        self._masker = IncrementalMasker(words)

    def add(self, delta: Delta) -> ChoiceDelta:
        """Adds what the engine has generated, and returns what the caller may see of it."""
        self._raw.append(delta.text)
        self.tokens = delta.completion_tokens
        self.logprobs += delta.logprobs
        shown = self._update(final=False)
        return ChoiceDelta(self._index, shown.text, shown.tool_calls, delta.logprobs)

    def finish(self, completion: Completion) -> ChoiceDelta:
        """Returns what was held back until the end. A call that `max_tokens` has cut is left out."""
        self.tokens = completion.completion_tokens
        return self._update(final=True, cut=completion.finish_reason == "length")

    def _update(self, *, final: bool, cut: bool = False) -> ChoiceDelta:
        raw = "".join(self._raw)
        split = split_calls(raw, self._names, final=final and not cut) if self._names else None
        content = raw if split is None else split.content
        self._masker.add(content[len(self._content) :])
        self._content = content
        text = self._masker.text if final else self._masker.stable_text
        new_text, self.text = text[len(self.text) :], text
        known = len(self.tool_calls)
        calls = () if split is None else tuple(self._identified(known + at, call) for at, call in enumerate(split.calls[known:]))
        self.tool_calls += calls
        return ChoiceDelta(self._index, new_text, calls)

    def _identified(self, position: int, call: FunctionCall) -> ToolCall:
        digest = hashlib.sha256(f"{self._id}/{position}".encode(errors="backslashreplace")).hexdigest()
        arguments = transform_texts(call.arguments, self._masked, keys=False)
        return ToolCall(position, f"call_{digest[:_ID_LENGTH]}", call.name, json.dumps(arguments, ensure_ascii=False))

    def _masked(self, text: str) -> str:
        masker = IncrementalMasker(self._words)
        masker.add(text)
        return masker.text


def generate_choices(engine: InferenceEngine, request: ChatRequest, cancel: CancelToken) -> Iterator[tuple[int, Delta | Completion]]:
    """Generates all choices of a request at once. Yields their deltas and, for each, its completion at the end.

    Raises:
        JobError: One of them has failed; the others are cancelled.
    """
    requests = [request.model_copy(update={"seed": seed}) for seed in batch_seeds(request.seed, request.n)]
    arrived: SimpleQueue[tuple[int, Delta | Completion | None]] = SimpleQueue()

    def read(index: int, stream: CompletionStream) -> None:
        try:
            for delta in stream:
                arrived.put((index, delta))
            arrived.put((index, stream.completion))
        finally:
            arrived.put((index, None))

    if request.n == 1:  # on this thread
        with engine.submit(request, cancel) as stream:
            yield from ((0, delta) for delta in stream)
            yield 0, stream.completion
        return
    with ThreadPoolExecutor(len(requests), thread_name_prefix="choice") as threads, ExitStack() as streams:
        opened = [streams.enter_context(engine.submit(each, cancel)) for each in requests]
        reading = [threads.submit(read, index, stream) for index, stream in enumerate(opened)]
        for _ in reading:
            while (item := arrived.get())[1] is not None:
                yield item[0], item[1]
            reading[item[0]].result()
