"""Request → text."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from handlers.chat.engine import Finished, TextEngine
from handlers.chat.masking import Masked, WordList
from handlers.chat.request import ChatRequest
from shared.errors import ModelUnavailable
from shared.jobs.recipe import Product, Run, Summary, Text


@dataclass(frozen=True)
class ChatSettings:
    """What the operator decides about chat.

    Attributes:
        sfw_words: What `sfw_mode` masks.
        streams: Whether text is streamed; progress then shows it only to those who asked.
    """

    sfw_words: Sequence[str] = ()
    streams: bool = False


_NO_WORDS = WordList(())


class ChatRecipe:
    """Conversation → answer.

    Args:
        engine: What writes.
        settings: What the operator decides.
    """

    def __init__(self, engine: TextEngine, settings: ChatSettings) -> None:
        self.engine = engine
        self._settings = settings
        self._words = WordList(settings.sfw_words)

    @property
    def model_names(self) -> Sequence[str]:
        """The models that requests may name."""
        return tuple(self.engine.models)

    def accept(self, request: ChatRequest) -> None:
        """Refuses what this worker cannot do, and what does not fit the model.

        Raises:
            ModelUnavailable: The model, the word list or the response format is not on this worker.
            ContextLengthExceeded: Prompt and answer are longer than the context window; names both lengths.
            ValidationError: The schema of the answer cannot be followed.
        """
        if request.sfw_mode and not self._settings.sfw_words:
            raise ModelUnavailable("This worker has no word list for sfw_mode. Leave it out, or ask the operator to set SFW_WORDS.")
        self.engine.check(request)

    def generate(self, request: ChatRequest, references: Mapping[str, Image.Image], run: Run) -> Generator[Product]:
        """Writes one answer."""
        masked = Masked(self._words if request.sfw_mode else _NO_WORDS)
        with self.engine.start(request, run.cancel) as stream:
            for piece in stream:
                masked.add(piece.text)
                run.report(piece.tokens, request.max_tokens, text=masked.shown if self._shows(request) else None)
            done = stream.finished
        # Those who watch get what was held back.
        if self._shows(request):
            run.report(done.completion_tokens, request.max_tokens, text=masked.final)
        yield Text(masked.final, _facts(request, done, self.engine))

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
            "model_info": {"model": request.model, "context_length": self.engine.models[request.model].context_length},
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens},
        }
        if request.is_enhancement:
            top_level["enhanced_prompt"] = text.content
        metadata: dict[str, Any] = {
            "model_used": request.model,
            "enhancement_type": request.enhancement_type,
            "sfw_mode": request.sfw_mode,
            "system_prompt_used": "custom" if custom else "none",
            "vram_used": self.engine.vram_used_mb,
        }
        repeated = ("The model had begun to repeat itself; the answer ends there.",) if text.metadata.get("repeats") else ()
        return Summary(metadata, top_level, repeated)

    def _shows(self, request: ChatRequest) -> bool:
        """Without streaming, progress updates carry the text so far; with it, those who did not ask get the payload alone."""
        return request.stream or not self._settings.streams


def _facts(request: ChatRequest, done: Finished, engine: TextEngine) -> dict[str, Any]:
    """How the answer came about. What is not known is left out."""
    revision = engine.models[request.model].revision
    return {
        "tokens_generated": done.completion_tokens,
        "prompt_tokens": done.prompt_tokens,
        "cached_tokens": done.cached_tokens,
        "model_used": request.model,
        **({"revision": revision} if revision else {}),
        "generation_time": round(done.seconds, 3),
        "time_to_first_token": round(done.time_to_first_token, 3),
        "tokens_per_second": round(done.completion_tokens / max(done.seconds, 1e-6), 1),
        "finish_reason": done.finish_reason,
        "seed": request.seed,
        **({"repeats": True} if done.repeats else {}),
    }
