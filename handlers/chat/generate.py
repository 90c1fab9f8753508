"""Request → text."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import DynamicCache

from handlers.chat.prompts import BASE_STOPS, render_template, render_transcript
from handlers.chat.sampling import Sampler
from handlers.chat.texts import Answer
from shared.contract.chat import ChatRequest
from shared.errors import ContextLengthExceeded, ModelUnavailable
from shared.jobs.recipe import Product, Run, Summary, Text
from shared.models.device import forget_vram_peak, vram_used_mb
from shared.models.language import ChatModel


@dataclass(frozen=True)
class ChatSettings:
    """What the operator decides about chat.

    Attributes:
        sfw_words: What `sfw_mode` masks.
        streams: Whether text is streamed; progress then shows it only to those who asked.
    """

    sfw_words: Sequence[str] = ()
    streams: bool = False


class ChatRecipe:
    """Conversation → answer.

    Args:
        models: The loaded models by the names that requests use; `qwen_base` is written to in transcripts, all others in their templates.
        settings: What the operator decides.
    """

    def __init__(self, models: Mapping[str, ChatModel], settings: ChatSettings) -> None:
        self._models = models
        self._settings = settings
        self._rendering = threading.Lock()

    def accept(self, request: ChatRequest) -> None:
        """Refuses what this worker cannot do, and what does not fit the model.

        Raises:
            ModelUnavailable: The model, the word list or the response format is not on this worker.
            ContextLengthExceeded: Prompt and answer are longer than the context window; names both lengths.
        """
        if request.model not in self._models:
            raise ModelUnavailable(f"This worker has no model {request.model!r}; it has {', '.join(sorted(self._models))}.")
        if request.response_format.type != "text":
            raise ModelUnavailable(f"This worker cannot write response_format {request.response_format.type!r}; it can write 'text'.")
        if request.sfw_mode and not self._settings.sfw_words:
            raise ModelUnavailable("This worker has no word list for sfw_mode. Leave it out, or ask the operator to set SFW_WORDS.")
        self._check_length(request)

    @torch.inference_mode()
    def generate(self, request: ChatRequest, references: Mapping[str, Image.Image], run: Run) -> Generator[Product]:
        """Writes one answer."""
        started = time.perf_counter()
        chosen = self._models[request.model]
        forget_vram_peak(chosen.model.device)
        # 1. What the model reads
        prompt = self._prompt(request)
        # 2. How it chooses, and where it stops
        sampler = Sampler(request, prompt, len(chosen.tokenizer))
        answer = self._answer(request, chosen)
        # 3. Token by token
        ends, written, reason = _end_ids(request.model, chosen), 0, "length"
        for token in _tokens(chosen.model, prompt, sampler, run):
            if token in ends:
                reason = "stop"
                break
            written += 1
            answer.add(token)
            run.report(written, request.max_tokens, text=_trim(answer.shown, request) if self._shows(request) else None)
            if answer.stopped:
                reason = "stop"
                break
            if written == request.max_tokens:
                break
        # 4. What was made; those who watch get what was held back
        content = _trim(answer.final, request)
        if self._shows(request):
            run.report(written, request.max_tokens, text=content)
        done = {
            "tokens_generated": written,
            "prompt_tokens": len(prompt),
            "model_used": request.model,
            "generation_time": round(time.perf_counter() - started, 3),
            "finish_reason": reason,
            "seed": request.seed,
        }
        yield Text(content, done)

    def summarize(self, request: ChatRequest, products: Sequence[Product]) -> Summary:
        """Says what was done, for the payload and for the callers that read its top level."""
        (text,) = (product for product in products if isinstance(product, Text))
        prompt_tokens, tokens = int(str(text.metadata["prompt_tokens"])), int(str(text.metadata["tokens_generated"]))
        custom = any(message.role == "system" for message in request.messages)
        top_level: dict[str, Any] = {
            "success": True,
            "response": text.content,
            "tokens_generated": tokens,
            "generation_time": text.metadata["generation_time"],
            "model_info": {"model": request.model, "context_length": self._models[request.model].context_length},
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens},
        }
        if request.is_enhancement:
            top_level["enhanced_prompt"] = text.content
        metadata: dict[str, Any] = {
            "model_used": request.model,
            "enhancement_type": request.enhancement_type,
            "sfw_mode": request.sfw_mode,
            "system_prompt_used": "custom" if custom else "none",
            "vram_used": vram_used_mb(self._models[request.model].model.device),
        }
        return Summary(metadata, top_level)

    def _prompt(self, request: ChatRequest) -> list[int]:
        render = render_transcript if request.model == "qwen_base" else render_template
        # Requests are accepted on other threads than they are answered on, and a fast tokenizer is not to be changed while it is used.
        with self._rendering:
            return render(self._models[request.model].tokenizer, request.messages)

    def _answer(self, request: ChatRequest, chosen: ChatModel) -> Answer:
        stops = request.stop + (BASE_STOPS if request.model == "qwen_base" else ())
        return Answer(chosen.tokenizer, stops, self._settings.sfw_words if request.sfw_mode else ())

    def _shows(self, request: ChatRequest) -> bool:
        """Without streaming, progress updates carry the text so far; with it, those who did not ask get the payload alone."""
        return request.stream or not self._settings.streams

    def _check_length(self, request: ChatRequest) -> None:
        window, prompt = self._models[request.model].context_length, len(self._prompt(request))
        if prompt + request.max_tokens > window:
            room = max(window - prompt, 0)
            raise ContextLengthExceeded(
                f"The conversation has {prompt} tokens and max_tokens asks for {request.max_tokens} more, but {request.model} holds "
                f"{window}. Shorten the conversation, or ask for at most {room} tokens."
            )


def _end_ids(name: str, chosen: ChatModel) -> frozenset[int]:
    """The tokens that end an answer. For a base model every control token does: it was never taught what comes after one."""
    if name == "qwen_base":
        return frozenset(chosen.tokenizer.all_special_ids)
    named = chosen.model.generation_config.eos_token_id
    return frozenset([named] if isinstance(named, int) else named)


def _tokens(model: Any, prompt: list[int], sampler: Sampler, run: Run) -> Iterator[int]:
    """The tokens that the model goes on with, without an end."""
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([prompt], device=model.device)
    while True:
        run.cancel.check()
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        token = sampler.choose(logits)
        yield token
        ids = torch.tensor([[token]], device=model.device)


def _trim(text: str, request: ChatRequest) -> str:
    """Takes off the space that a transcript leaves to the model to write."""
    return text.lstrip() if request.model == "qwen_base" else text
