"""Engines of small models for tests, and conversations that are answered at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from handlers.chat.engine import Finished
from handlers.chat.engines.transformers.chat_format import Source
from handlers.chat.engines.transformers.engine import BatchingEngine
from handlers.chat.engines.transformers.load import ChatModel, load_chat
from handlers.chat.prompts import render_template
from handlers.chat.request import ChatRequest
from shared.errors import JobError
from shared.jobs.execution.cancel import CancelToken

CPU = torch.device("cpu")


@contextmanager
def engine_of(
    *models: ChatModel,
    resident: Literal["both", "one"] = "both",
    budget: int | None = None,
    names: Sequence[str] = ("qwen_instruct", "qwen_base"),
) -> Iterator[BatchingEngine]:
    """An engine of these models, the second of which is a base model."""
    sources = [
        Source(name, lambda model=model: model, transcript=index > 0)  # type: ignore[misc]
        for index, (name, model) in enumerate(zip(("qwen_instruct", "qwen_base"), models, strict=False))
    ]
    engine = BatchingEngine(sources, resident=resident, budget=budget)
    try:
        yield engine
    finally:
        engine.close()


def ask(content: str = "hello", *, system: str | None = None, **fields: Any) -> ChatRequest:
    """A greedy request of 24 tokens, unless told otherwise."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    return ChatRequest.parse(
        {"messages": [*messages, {"role": "user", "content": content}], "max_tokens": 24, "temperature": 0, **fields}, job_id="j"
    )


WORDS = ("hello", "a heron", "over the bay", "why?", "tell me more", "one two three four", "and then", "snow falls at night on the hills")
EIGHT = [ask(words, max_tokens=10 + 5 * index) for index, words in enumerate(WORDS)]
ENDLESS = ask(max_tokens=1900, repetition_penalty=0.5)
"""Words that are there are made likelier, so that it goes on and on."""
PER_TOKEN = 768
"""What a token takes in the small model: 2 × 3 layers × 2 heads × 16 × 4 bytes."""


def cost(rows: int, columns: int) -> int:
    """A budget for exactly so many rows of so many columns."""
    return ((rows + 1) * columns + 1) * PER_TOKEN * 16 // 15


def answer(engine: BatchingEngine, request: ChatRequest, cancel: CancelToken | None = None) -> Finished:
    """The answer to one request."""
    engine.check(request)
    with engine.start(request, cancel or CancelToken(60)) as stream:
        pieces = [piece.text for piece in stream]
        assert "".join(pieces) == stream.finished.text
        return stream.finished


def outcome(engine: BatchingEngine, request: ChatRequest, cancel: CancelToken | None = None) -> Finished | JobError:
    """The answer, or why there is none."""
    try:
        return answer(engine, request, cancel)
    except JobError as error:
        return error


def together(engine: BatchingEngine, requests: Sequence[ChatRequest]) -> list[Finished | JobError]:
    """What becomes of requests that are sent at once."""
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(lambda request: outcome(engine, request), requests))


def texts(outcomes: Sequence[Finished | JobError]) -> list[str]:
    """The texts of answers that all exist."""
    assert all(isinstance(end, Finished) for end in outcomes), outcomes
    return [end.text for end in outcomes if isinstance(end, Finished)]


def own_copy(models: Path, name: str = "qwen_instruct") -> ChatModel:
    """A model of a test's own, which it may damage."""
    return load_chat(models / name, CPU, torch.float32)


def generated(model: ChatModel, request: ChatRequest) -> str:
    """What the library's own greedy search makes of a request. Rows of the embedding that are no tokens are never chosen."""
    prompt = torch.tensor([render_template(model.tokenizer, request.messages)])
    padding = list(range(len(model.tokenizer), model.model.config.vocab_size)) or None
    greedy: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0, "temperature": None, "top_p": None, "top_k": None}
    generate: Any = model.model.generate
    out = generate(prompt, max_new_tokens=request.max_tokens, suppress_tokens=padding, **greedy)
    return str(model.tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True))


def passes_of(model: ChatModel) -> list[int]:
    """Gets the number of rows of each forward pass from now on."""
    rows: list[int] = []
    model.model.register_forward_pre_hook(lambda _module, _args, fields: rows.append(len(fields["input_ids"])), with_kwargs=True)
    return rows


def favouring(models: Path, word: str, name: str = "qwen_base") -> ChatModel:
    """A model that would rather write one token than any other, whatever it reads."""
    model = own_copy(models, name)
    (token,) = model.tokenizer(word, add_special_tokens=False).input_ids
    model.model.register_forward_hook(lambda _module, _args, out: out.logits[..., token].fill_(1e4) and None)
    return model
