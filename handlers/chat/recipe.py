"""The chat recipe: generates the completions of a job, masks and reports them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from handlers.chat.choice_delta import ChoiceDelta
from handlers.chat.choices import Choice, generate_choices
from handlers.chat.engine import Completion, InferenceEngine
from handlers.chat.masking import WordList
from handlers.chat.payload import ChatTopLevel, call_to_json, logprob_to_json
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
            ModelUnavailable: The model, its tools, the word list or the response format is not available on this worker.
            ContextLengthExceeded: Prompt and `max_tokens` exceed the context window; the message gives both lengths.
            ValidationError: The JSON Schema of the response format is not supported.
        """
        if request.sfw_mode and not self._settings.sfw_words:
            raise ModelUnavailable(
                "`sfw_mode` requires a word list, and this worker has none. Omit it, or ask the operator to set SFW_WORDS."
            )
        self.engine.check(request)

    def generate(self, request: ChatRequest, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        """Generates the completions, and reports the masked text of the first one as it grows."""
        words = self._words if request.sfw_mode else _NO_WORDS
        choices = [Choice(index, request, words, run.job_id) for index in range(request.n)]
        completions: dict[int, Completion] = {}
        for index, item in generate_choices(self.engine, request, run.cancel):
            if isinstance(item, Completion):
                completions[index] = item
                if item.finish_reason == "stop":
                    ensure_conforms(request.constraint, item.text)
                shown = choices[index].finish(item)
            else:
                shown = choices[index].add(item)
            self._report(shown, choices, request, run)
        for index, choice in enumerate(choices):
            yield TextOutput(choice.text, _metadata(request, choice, completions[index], self.engine))

    def _report(self, shown: ChoiceDelta, choices: Sequence[Choice], request: ChatRequest, run: JobRun) -> None:
        if request.stream and shown:
            run.emit(shown)
        shows_text = request.stream or not self._settings.streams
        done, total = sum(choice.tokens for choice in choices), request.max_tokens * request.n
        run.report(done, total, text=choices[0].text if shows_text else None)

    def summarize(self, request: ChatRequest, outputs: Sequence[Output]) -> Summary:
        """Returns the chat fields of the payload: metadata, and the keys at its top level, which are the first completion's."""
        texts = [output for output in outputs if isinstance(output, TextOutput)]
        text = texts[0]
        prompt_tokens, tokens = int(str(text.metadata["prompt_tokens"])), sum(int(str(each.metadata["tokens_generated"])) for each in texts)
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
        repeats = any(each.metadata.get("repeats") for each in texts)
        warnings = ("Generation stopped early: the model had started to repeat itself.",) if repeats else ()
        return Summary(metadata, top_level.model_dump(mode="json"), warnings)


def _metadata(request: ChatRequest, choice: Choice, completion: Completion, engine: InferenceEngine) -> dict[str, Any]:
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
        "finish_reason": "tool_calls" if choice.tool_calls and completion.finish_reason == "stop" else completion.finish_reason,
        "seed": choice.seed,
        **({"repeats": True} if completion.repetition_detected else {}),
        **({"tool_calls": [call_to_json(call) for call in choice.tool_calls]} if choice.tool_calls else {}),
        **({"logprobs": [logprob_to_json(each) for each in choice.logprobs]} if request.logprobs else {}),
    }
