"""A model of vLLM that gets token ids: the worker renders and counts prompts itself, as its built-in engine does."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.chat.engine import ModelInfo
from handlers.chat.engines.openai_server.body import sampling_parameters
from handlers.chat.engines.openai_server.connection import ServerConnection
from handlers.chat.engines.openai_server.failures import RequestContext
from handlers.chat.engines.openai_server.health import HealthMonitor, Probing
from handlers.chat.engines.openai_server.stream import CompletionRequest
from handlers.chat.engines.vllm.server import VllmServer
from handlers.chat.prompt_renderer import PromptRenderer
from handlers.chat.prompts import BASE_MODEL_STOPS
from handlers.chat.refusals import completion_limit, context_length_exceeded, ensure_supported
from handlers.chat.request import ChatRequest
from handlers.chat.structured.formats import grammar_of
from handlers.chat.tools.tags import with_tag_tokens

_PATH = "/v1/completions"


@dataclass(frozen=True)
class TokensSpec:
    """What is known of a model.

    Attributes:
        name: The name that requests use, which is also the server's.
        tokenizer: Its fast tokenizer.
        info: Its context window and revision.
        eos_token_ids: The tokens that end a completion.
        transcript: Whether it is a base model.
    """

    name: str
    tokenizer: Any = field(repr=False)
    info: ModelInfo
    eos_token_ids: frozenset[int]
    transcript: bool = False


class TokensModel:
    """A model that gets prompts as token ids.

    Args:
        spec: The model.
        server: Its server, which this object ends.
        max_concurrency: The number of completions to request at once.
        probing: How the server is watched.

    Raises:
        SettingsError: The tokenizer is not a fast one, or has no chat template although the model is not a base model.
    """

    def __init__(self, spec: TokensSpec, server: VllmServer, max_concurrency: int, probing: Probing) -> None:
        self._spec = spec
        self._server = server
        self._prompts = PromptRenderer(spec.tokenizer, transcript=spec.transcript)
        # A base model was not trained on what follows a control token, so each of them ends its completion.
        special = frozenset(spec.tokenizer.all_special_ids) if spec.transcript else frozenset()
        self._eos_token_ids = spec.eos_token_ids | special
        self.info = spec.info
        self.connection = ServerConnection(server.url, max_concurrency)
        self.monitor = HealthMonitor(server.url, probing, lambda: server.has_exited)

    def check(self, request: ChatRequest) -> None:
        """Rejects a request that can never be completed, without asking the server."""
        ensure_supported(request, ("logprobs",))
        self._prompts.check(request, self.info.context_length)
        grammar_of(request.content_constraint)
        grammar_of(request.constraint)

    def completion_request(self, request: ChatRequest) -> CompletionRequest:
        """Returns the request to the server."""
        prompt = self._prompts.take(request)
        body = sampling_parameters(request, self._spec.name, completion_limit(request, len(prompt.ids), self.info.context_length))
        body |= {"prompt": list(prompt.ids), "stop_token_ids": sorted(self._eos_token_ids | set(request.stop_token_ids))}
        is_transcript = self._spec.transcript and request.completion_prompt is None
        body["stop"] = [*request.stop, *(BASE_MODEL_STOPS if is_transcript else ())]
        if (grammar := grammar_of(request.constraint)) is not None:
            body["structured_outputs"] = {"grammar": with_tag_tokens(to_lark(grammar), self._spec.tokenizer)}
        if is_transcript:
            body["return_token_ids"] = True
        too_long = context_length_exceeded(request, len(prompt.ids), self.info.context_length)
        return CompletionRequest(_PATH, body, RequestContext.of(request, too_long), min_tokens=request.min_tokens, transcript=is_transcript)

    def close(self) -> None:
        """Ends the server."""
        self._server.close()


def to_lark(grammar: str) -> str:
    """Returns a grammar in the notation that vLLM hands to llguidance unchanged.

    Args:
        grammar: A grammar as `grammar_of` returns it: Lark, or llguidance's JSON with one grammar in it.
    """
    if not grammar.startswith("{"):
        return grammar
    (inner,) = json.loads(grammar)["grammars"]
    if inner.get("lark_grammar") is not None:
        return str(inner["lark_grammar"])
    return f"start: %json {json.dumps(inner['json_schema'])}"


def eos_token_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Returns the tokens that end a completion, from the generation config, the config or the tokenizer, the first that names any."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ids = json.loads(path.read_bytes()).get("eos_token_id") if path.is_file() else None
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset([tokenizer.eos_token_id])
