"""Engines with small models, requests, and functions that complete requests one at a time or concurrently."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from handlers.chat.engine import Completion
from handlers.chat.engines.transformers.chat_format import ModelSpec
from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel, load_chat
from handlers.chat.engines.transformers.stream import SequenceStream
from handlers.chat.prompts import render_chat_template
from handlers.chat.request import ChatRequest
from shared.errors import JobError
from shared.jobs.execution.cancel import CancelToken

CPU = torch.device("cpu")


@contextmanager
def engine_of(*models: ChatModel, resident: Literal["both", "one"] = "both", budget: int | None = None) -> Iterator[TransformersEngine]:
    """An engine with an instruct model and, if there is a second model, a base model."""
    specs = [
        ModelSpec(name, lambda model=model: model, transcript=index > 0)  # type: ignore[misc]
        for index, (name, model) in enumerate(zip(("qwen_instruct", "qwen_base"), models, strict=False))
    ]
    engine = TransformersEngine(specs, resident=resident, budget=budget)
    try:
        yield engine
    finally:
        engine.close()


def ask(content: str = "hello", *, system: str | None = None, **fields: Any) -> ChatRequest:
    """Returns a request, by default greedy with 24 tokens."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    return ChatRequest.parse(
        {"messages": [*messages, {"role": "user", "content": content}], "max_tokens": 24, "temperature": 0, **fields}, job_id="j"
    )


WORDS = ("hello", "a heron", "over the bay", "why?", "tell me more", "one two three four", "and then", "snow falls at night on the hills")
EIGHT = [ask(words, max_tokens=10 + 5 * index) for index, words in enumerate(WORDS)]
ENDLESS = ask(max_tokens=1900, repetition_penalty=0.5)
"""Runs until `max_tokens`: the penalty makes repetition more likely."""
BYTES_PER_TOKEN = 768
"""KV-cache bytes per token of the small model: 2 × 3 layers × 2 heads × 16 × 4 bytes."""


def budget_for(sequences: int, positions: int) -> int:
    """Returns a KV-cache budget that admits exactly so many sequences of so many positions."""
    return ((sequences + 1) * positions + 1) * BYTES_PER_TOKEN * 16 // 15


def complete(engine: TransformersEngine, request: ChatRequest, cancel: CancelToken | None = None) -> Completion:
    """Completes one request, and checks that its deltas add up."""
    engine.check(request)
    with engine.submit(request, cancel or CancelToken(60)) as stream:
        deltas = [delta.text for delta in stream]
        assert "".join(deltas) == stream.completion.text
        return stream.completion


def complete_or_error(engine: TransformersEngine, request: ChatRequest, cancel: CancelToken | None = None) -> Completion | JobError:
    """Completes one request, and returns an error instead of raising it."""
    try:
        return complete(engine, request, cancel)
    except JobError as error:
        return error


@contextmanager
def held(model: ChatModel) -> Iterator[threading.Event]:
    """Holds the model's next forward pass until the body ends, so that everything that is submitted meanwhile runs together.

    Yields:
        An event that is set when the pass has begun.
    """
    begun, ends = threading.Event(), threading.Event()

    def hold(_module: object, _args: object) -> None:
        begun.set()
        ends.wait(60)

    hook = model.model.register_forward_pre_hook(hold)
    try:
        yield begun
    finally:
        ends.set()
        hook.remove()


def complete_together(engine: TransformersEngine, model: ChatModel, requests: Sequence[ChatRequest]) -> list[Completion | JobError]:
    """Completes requests that are all submitted, in this order, before the first forward pass of the model is done."""
    with held(model):
        streams = [engine.submit(request, CancelToken(60)) for request in requests]
    return [_end(stream) for stream in streams]


def _end(stream: SequenceStream) -> Completion | JobError:
    try:
        list(stream)
    except JobError as error:
        return error
    return stream.completion


def complete_concurrently(engine: TransformersEngine, requests: Sequence[ChatRequest]) -> list[Completion | JobError]:
    """Completes requests at the same time."""
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(lambda request: complete_or_error(engine, request), requests))


@dataclass(frozen=True)
class Moment:
    """When something happened: not before `earliest` and not after `latest`, in seconds of `time.perf_counter`.

    A completion counts its seconds from a moment within `submit`, which is known only to have been between the call and the return.
    """

    earliest: float
    latest: float

    def may_precede(self, other: Moment) -> bool:
        """Whether it can have been before the other moment."""
        return self.earliest <= other.latest


@dataclass(frozen=True)
class Timeline:
    """When a sequence got its first token and when it was complete."""

    first_token: Moment
    end: Moment


def timelines(engine: TransformersEngine, model: ChatModel, requests: Sequence[ChatRequest]) -> list[Timeline]:
    """Completes requests that are all submitted, in this order, before the first forward pass of the model is done."""
    with held(model):
        submitted = [(time.perf_counter(), engine.submit(request, CancelToken(60)), time.perf_counter()) for request in requests]
    return [_timeline(*each) for each in submitted]


def _timeline(called: float, stream: SequenceStream, returned: float) -> Timeline:
    list(stream)
    moments = (
        Moment(called + seconds, returned + seconds) for seconds in (stream.completion.time_to_first_token, stream.completion.seconds)
    )
    return Timeline(*moments)


def texts(ends: Sequence[Completion | JobError]) -> list[str]:
    """Returns the texts of completions that all succeeded."""
    assert all(isinstance(end, Completion) for end in ends), ends
    return [end.text for end in ends if isinstance(end, Completion)]


def load_copy(models: Path, name: str = "qwen_instruct") -> ChatModel:
    """Loads a model that the test may modify."""
    return load_chat(models / name, CPU, torch.float32)


def generate_with_transformers(model: ChatModel, request: ChatRequest) -> str:
    """Returns the greedy completion by `generate`, with the layers of transformers and with padding rows of the embedding suppressed."""
    prompt = torch.tensor([render_chat_template(model.tokenizer, request.messages)])
    padding = list(range(len(model.tokenizer), model.model.config.vocab_size)) or None
    greedy: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0, "temperature": None, "top_p": None, "top_k": None}
    generate: Any = with_transformers_layers(model).model.generate
    out = generate(prompt, max_new_tokens=request.max_tokens, suppress_tokens=padding, **greedy)
    return str(model.tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True))


def with_transformers_layers(model: ChatModel) -> ChatModel:
    """Returns the same model as its files have it, with the layers of transformers."""
    return _load_unfused(Path(str(model.model.name_or_path)))


@lru_cache(2)
def _load_unfused(folder: Path) -> ChatModel:
    return load_chat(folder, CPU, torch.float32, fused=False)


def record_batch_sizes(model: ChatModel) -> list[int]:
    """Returns a list that receives the batch size of every forward pass from now on."""
    sizes: list[int] = []
    model.model.register_forward_pre_hook(lambda _module, _args, fields: sizes.append(len(fields["input_ids"])), with_kwargs=True)
    return sizes


def biased_towards(models: Path, word: str, name: str = "qwen_base") -> ChatModel:
    """Loads a model whose most likely token is always the same."""
    model = load_copy(models, name)
    (token,) = model.tokenizer(word, add_special_tokens=False).input_ids
    model.model.register_forward_hook(lambda _module, _args, out: out.logits[..., token].fill_(1e4) and None)
    return model
