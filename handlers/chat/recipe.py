"""The chat recipe: generates one completion per job, masks it and reports it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from handlers.chat.engine import Completion, InferenceEngine
from handlers.chat.masking import IncrementalMasker, WordList
from handlers.chat.payload import ChatTopLevel
from handlers.chat.request import ChatRequest
from handlers.chat.structured.formats import ensure_conforms
from shared.errors import ModelUnavailable
from shared.jobs.recipe import JobRun, Output, Summary, TextOutput


@dataclass(frozen=True)
class ChatSettings:
    """The operator's settings for chat.

    Attributes:
        sfw_words: The words and phrases that `sfw_mode` masks.
        streams: Whether the worker streams text. Progress updates then carry it only for requests with `stream`.
    """

    sfw_words: Sequence[str] = ()
    streams: bool = False


_NO_WORDS = WordList(())


class ChatRecipe:
    """Generates completions with an inference engine.

    Args:
        engine: The inference engine.
        settings: The operator's settings.
    """

    def __init__(self, engine: InferenceEngine, settings: ChatSettings) -> None:
        self.engine = engine
        self._settings = settings
        self._words = WordList(settings.sfw_words)

    @property
    def model_names(self) -> Sequence[str]:
        """The models that requests may name."""
        return tuple(self.engine.models)

    def check(self, request: ChatRequest) -> None:
        """Rejects a request that this worker cannot complete.

        Raises:
            ModelUnavailable: The model, the word list or the response format is not available on this worker.
            ContextLengthExceeded: Prompt and `max_tokens` exceed the context window; the message gives both lengths.
            ValidationError: The JSON Schema of the response format is not supported.
        """
        if request.sfw_mode and not self._settings.sfw_words:
            raise ModelUnavailable(
                "`sfw_mode` requires a word list, and this worker has none. Omit it, or ask the operator to set SFW_WORDS."
            )
        self.engine.check(request)

    def generate(self, request: ChatRequest, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        """Generates one completion and reports the masked text as it grows."""
        masker = IncrementalMasker(self._words if request.sfw_mode else _NO_WORDS)
        shows_text = request.stream or not self._settings.streams
        with self.engine.submit(request, run.cancel) as stream:
            for delta in stream:
                masker.add(delta.text)
                run.report(delta.completion_tokens, request.max_tokens, text=masker.stable_text if shows_text else None)
            completion = stream.completion
        if completion.finish_reason == "stop":
            ensure_conforms(request.constraint, completion.text)
        if shows_text:  # flush the text that was held back
            run.report(completion.completion_tokens, request.max_tokens, text=masker.text)
        yield TextOutput(masker.text, _metadata(request, completion, self.engine))

    def summarize(self, request: ChatRequest, outputs: Sequence[Output]) -> Summary:
        """Returns the chat fields of the payload: metadata, and the keys at its top level."""
        (text,) = (output for output in outputs if isinstance(output, TextOutput))
        prompt_tokens, tokens = int(str(text.metadata["prompt_tokens"])), int(str(text.metadata["tokens_generated"]))
        custom = any(message.role == "system" for message in request.messages)
        top_level = ChatTopLevel.model_validate(
            {
                "success": True,
                "response": text.content,
                "enhanced_prompt": text.content if request.is_enhancement else None,
                "tokens_generated": tokens,
                "generation_time": text.metadata["generation_time"],
                "model_info": {"model": request.model, "context_length": self.engine.models[request.model].context_length},
                "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens},
            }
        )
        metadata: dict[str, Any] = {
            "model_used": request.model,
            "enhancement_type": request.enhancement_type,
            "sfw_mode": request.sfw_mode,
            "system_prompt_used": "custom" if custom else "none",
            **self.engine.device,
        }
        warnings = ("Generation stopped early: the model had started to repeat itself.",) if text.metadata.get("repeats") else ()
        return Summary(metadata, top_level.model_dump(mode="json"), warnings)


def _metadata(request: ChatRequest, completion: Completion, engine: InferenceEngine) -> dict[str, Any]:
    """Returns the asset's metadata. Unknown values are omitted."""
    revision = engine.models[request.model].revision
    return {
        "tokens_generated": completion.completion_tokens,
        "prompt_tokens": completion.prompt_tokens,
        "cached_tokens": completion.cached_tokens,
        "model_used": request.model,
        **({"revision": revision} if revision else {}),
        "generation_time": round(completion.seconds, 3),
        "time_to_first_token": round(completion.time_to_first_token, 3),
        "tokens_per_second": round(completion.completion_tokens / max(completion.seconds, 1e-6), 1),
        "finish_reason": completion.finish_reason,
        "seed": request.seed,
        **({"repeats": True} if completion.repetition_detected else {}),
    }
