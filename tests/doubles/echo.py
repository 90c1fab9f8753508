"""A chat worker with a fake engine that echoes the last message token by token, through the real tokenizer, detokenizer and recipe.

`python -m tests.doubles.echo` serves it with the real SDK. A message that ends with `FAIL_MARKER` fails after its last token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import JsonValue
from transformers import AutoTokenizer

from handlers.chat.detokenizer import IncrementalDetokenizer
from handlers.chat.engine import Completion, Delta, ModelInfo
from handlers.chat.handler import HANDLER
from handlers.chat.recipe import ChatRecipe, ChatSettings
from handlers.chat.request import ChatRequest
from shared.errors import GenerationError
from shared.jobs.execution.cancel import CancelToken
from shared.serverless import serve
from shared.settings import Settings

FAIL_MARKER = "[fail]"
CLOSED_LOG = Path("closed.log")
"""A file in the worker's folder with one line per closed stream: the time, and `complete` or `aborted`."""
TOKEN_SECONDS = 0.002


class EchoStream:
    """The echo of one message."""

    def __init__(self, tokenizer: Any, text: str, cancel: CancelToken) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._cancel = cancel
        self._completion: Completion | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with CLOSED_LOG.open("a") as log:
            log.write(f"{time.monotonic()} {'complete' if self._completion else 'aborted'}\n")

    @property
    def completion(self) -> Completion:
        assert self._completion is not None
        return self._completion

    def __iter__(self) -> Iterator[Delta]:
        detokenizer, emitted = IncrementalDetokenizer(self._tokenizer, ()), 0
        ids = self._tokenizer(self._text, add_special_tokens=False, split_special_tokens=True).input_ids
        for count, token in enumerate(ids, start=1):
            self._cancel.check()
            time.sleep(TOKEN_SECONDS)
            detokenizer.add(token)
            yield Delta(detokenizer.stable_text[emitted:], count)
            emitted = len(detokenizer.stable_text)
        if self._text.endswith(FAIL_MARKER):
            raise GenerationError("The echo has failed. Send the job again.")
        yield Delta(detokenizer.text[emitted:], len(ids))
        self._completion = Completion(detokenizer.text, "stop", len(ids), len(ids), 1.0, 0.1)


class EchoEngine:
    """An `InferenceEngine` that echoes the last message."""

    max_concurrency = 64
    device: Mapping[str, JsonValue] = {}
    models: Mapping[str, ModelInfo] = {"qwen_instruct": ModelInfo(1_000_000)}

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def check(self, request: ChatRequest) -> None:
        """Accepts every request."""

    def submit(self, request: ChatRequest, cancel: CancelToken) -> EchoStream:
        return EchoStream(self._tokenizer, request.messages[-1].content, cancel)

    def watch(self, on_failure: Callable[[], None]) -> None:
        """Never fails."""

    def close(self) -> None:
        """Holds no resources."""


def load(settings: Settings) -> ChatRecipe:
    tokenizer = AutoTokenizer.from_pretrained(settings.models_dir / "qwen_instruct")
    return ChatRecipe(EchoEngine(tokenizer), ChatSettings(settings.sfw_words, settings.chat_streaming))


if __name__ == "__main__":
    serve(replace(HANDLER, load=load, libraries=(), libraries_of=lambda _settings: (), weights=()))
