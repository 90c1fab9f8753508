"""The text side of a chat model: prompts, decoding parameters and grammars. Nothing here uses the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from handlers.chat.detokenizer import IncrementalDetokenizer
from handlers.chat.engines.transformers.grammar import GrammarCompiler
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.logprobs import TokenDescriber
from handlers.chat.engines.transformers.sampling.sampler import Sampler
from handlers.chat.engines.transformers.sequence import DecodingParams
from handlers.chat.prompt_renderer import Prompt, PromptRenderer
from handlers.chat.prompts import BASE_MODEL_STOPS
from handlers.chat.repetition import RepetitionDetector
from handlers.chat.request import ChatRequest


@dataclass(frozen=True)
class ModelSpec:
    """A model that an engine serves, and how to load it.

    Attributes:
        name: The name that requests use.
        load: Loads the model; raises `WeightsError` if it cannot.
        transcript: Whether it is a base model, prompted with a transcript instead of a chat template.
        revision: The commit of its weights, if known.
    """

    name: str
    load: Callable[[], ChatModel]
    transcript: bool = False
    revision: str | None = None


class ChatFormat:
    """One model's tokenizer, prompt format and grammar compiler. Thread-safe.

    Args:
        loaded: The model; only its tokenizer and its configuration are kept.
        transcript: Whether it is a base model.

    Attributes:
        prompts: Renders its prompts.

    Raises:
        SettingsError: The tokenizer is not a fast one, or has no chat template although the model is not a base model.
    """

    def __init__(self, loaded: ChatModel, *, transcript: bool) -> None:
        self.prompts = PromptRenderer(loaded.tokenizer, transcript=transcript)
        self._tokenizer = loaded.tokenizer
        self._transcript = transcript
        # A base model was not trained on what follows a control token, so each of them ends its completion.
        special = frozenset(loaded.tokenizer.all_special_ids) if transcript else frozenset()
        self._eos_token_ids = loaded.eos_token_ids | special
        self._grammars = GrammarCompiler(loaded.tokenizer, loaded.model.config.vocab_size, self._eos_token_ids)
        self._describer = TokenDescriber(loaded.tokenizer)

    def check(self, request: ChatRequest) -> None:
        """Rejects constraints that cannot be compiled.

        Raises:
            ValidationError: The constraint is not supported.
        """
        self._grammars.compile(request.content_constraint)
        self._grammars.compile(request.constraint)

    def decoding_params(self, request: ChatRequest, prompt: Prompt, max_tokens: int) -> DecodingParams:
        """Returns the decoding parameters of a request.

        Args:
            request: The request.
            prompt: Its prompt.
            max_tokens: The maximum length of the completion.
        """
        eos_token_ids = self._eos_token_ids | frozenset(request.stop_token_ids)
        is_transcript = self._transcript and request.completion_prompt is None
        stop = request.stop + (BASE_MODEL_STOPS if is_transcript else ())
        return DecodingParams(
            sampler=Sampler(request, prompt.ids, self._grammars.compile(request.constraint), eos_token_ids),
            detokenizer=IncrementalDetokenizer(self._tokenizer, stop, strip_leading_space=is_transcript),
            eos_token_ids=eos_token_ids,
            min_tokens=request.min_tokens,
            max_tokens=max_tokens,
            describer=self._describer,
            repetition=RepetitionDetector() if is_transcript else None,
        )
