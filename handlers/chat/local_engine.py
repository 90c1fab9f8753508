"""The engine in this process: transformers' models, one answer at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import torch
from transformers import DynamicCache

from handlers.chat.engine import Finished, ModelFacts, Piece
from handlers.chat.prompts import BASE_STOPS, render_template, render_transcript
from handlers.chat.sampling import Sampler
from handlers.chat.texts import Answer
from shared.contract.chat import ChatRequest
from shared.errors import ContextLengthExceeded, ModelUnavailable
from shared.jobs.cancel import CancelToken
from shared.models.device import vram_used_mb
from shared.models.language import ChatModel


class LocalEngine:
    """Writes answers with loaded models.

    Args:
        models: By the names that requests use; `qwen_base` is written to in transcripts, all others in their templates.
    """

    def __init__(self, models: Mapping[str, ChatModel]) -> None:
        self._loaded = models
        self._rendering = threading.Lock()

    @property
    def models(self) -> Mapping[str, ModelFacts]:
        """The models that requests may name, by name."""
        return {name: ModelFacts(chosen.context_length) for name, chosen in self._loaded.items()}

    @property
    def concurrency(self) -> int:
        """How many answers it writes at once."""
        return 1

    @property
    def vram_used_mb(self) -> int:
        """MiB of the GPU's memory in use."""
        return max(vram_used_mb(chosen.model.device) for chosen in self._loaded.values())

    def check(self, request: ChatRequest) -> None:
        """Refuses, before any work, what can never be written."""
        if request.model not in self._loaded:
            raise ModelUnavailable(f"This worker has no model {request.model!r}; it has {', '.join(sorted(self._loaded))}.")
        if request.response_format.type != "text":
            raise ModelUnavailable(f"This worker cannot write response_format {request.response_format.type!r}; it can write 'text'.")
        window, prompt = self._loaded[request.model].context_length, len(self.prompt(request))
        if prompt + request.max_tokens > window:
            raise ContextLengthExceeded(
                f"The conversation has {prompt} tokens and max_tokens asks for {request.max_tokens} more, but {request.model} holds "
                f"{window}. Shorten the conversation, or ask for at most {max(window - prompt, 0)} tokens."
            )

    def start(self, request: ChatRequest, cancel: CancelToken) -> _Stream:
        """Takes a request that `check` has let pass."""
        return _Stream(self._loaded[request.model], request, self.prompt(request), cancel)

    def close(self) -> None:
        """Lets go of the models."""
        self._loaded = {}

    def prompt(self, request: ChatRequest) -> list[int]:
        """What the model reads, as token ids."""
        render = render_transcript if request.model == "qwen_base" else render_template
        # Requests are accepted on other threads than they are answered on, and a fast tokenizer is not to be changed while it is used.
        with self._rendering:
            return render(self._loaded[request.model].tokenizer, request.messages)


class _Stream:
    def __init__(self, chosen: ChatModel, request: ChatRequest, prompt: list[int], cancel: CancelToken) -> None:
        self._chosen = chosen
        self._request = request
        self._prompt = prompt
        self._cancel = cancel
        self._is_base = request.model == "qwen_base"
        self._finished: Finished | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    @property
    def finished(self) -> Finished:
        if self._finished is None:
            raise RuntimeError("the answer is not finished")
        return self._finished

    @torch.inference_mode()
    def __iter__(self) -> Iterator[Piece]:
        started, request = time.perf_counter(), self._request
        stops = request.stop + (BASE_STOPS if self._is_base else ())
        answer = Answer(self._chosen.tokenizer, stops, strips=self._is_base)
        sampler = Sampler(request, self._prompt, len(self._chosen.tokenizer))
        ends, written, first = _end_ids(self._chosen, is_base=self._is_base), 0, 0.0
        reason: Literal["stop", "length"] = "length"
        shown = ""
        for token in _tokens(self._chosen.model, self._prompt, sampler, self._cancel):
            first = first or time.perf_counter() - started
            if token in ends:
                reason = "stop"
                break
            written += 1
            answer.add(token)
            yield Piece(answer.shown[len(shown) :], written)
            shown = answer.shown
            if answer.stopped:
                reason = "stop"
                break
            if written == request.max_tokens:
                break
        yield Piece(answer.final[len(shown) :], written)
        self._finished = Finished(answer.final, reason, len(self._prompt), written, time.perf_counter() - started, first)


def _end_ids(chosen: ChatModel, *, is_base: bool) -> frozenset[int]:
    """The tokens that end an answer. For a base model every control token does: it was never taught what comes after one."""
    if is_base:
        return frozenset(chosen.tokenizer.all_special_ids)
    named = chosen.model.generation_config.eos_token_id
    return frozenset([named] if isinstance(named, int) else named)


def _tokens(model: Any, prompt: list[int], sampler: Sampler, cancel: CancelToken) -> Iterator[int]:
    """The tokens that the model goes on with, without an end."""
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([prompt], device=model.device)
    while True:
        cancel.check()
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        token = sampler.choose(logits)
        yield token
        ids = torch.tensor([[token]], device=model.device)
