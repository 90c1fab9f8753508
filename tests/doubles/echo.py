"""A chat worker without a model: it says again what the user said, token by token, through the real tokenizer, decoder and recipe.

`python -m tests.doubles.echo` serves it in the real SDK. A message that ends with `FAIL_MARKER` fails when all of it is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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

FAIL_MARKER = "[break]"
CLOSED_LOG = Path("left.log")
"""One line per answer that is no longer written, in the worker's folder: when it was left, and `whole` or `broken off`."""
TOKEN_SECONDS = 0.002


class EchoStream:
    """One message, said again."""

    def __init__(self, tokenizer: Any, text: str, cancel: CancelToken) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._cancel = cancel
        self._finished: Completion | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with CLOSED_LOG.open("a") as log:
            log.write(f"{time.monotonic()} {'whole' if self._finished else 'broken off'}\n")

    @property
    def finished(self) -> Completion:
        assert self._finished is not None
        return self._finished

    def __iter__(self) -> Iterator[Delta]:
        answer, shown = IncrementalDetokenizer(self._tokenizer, ()), 0
        ids = self._tokenizer(self._text, add_special_tokens=False, split_special_tokens=True).input_ids
        for written, token in enumerate(ids, start=1):
            self._cancel.check()
            time.sleep(TOKEN_SECONDS)
            answer.add(token)
            yield Delta(answer.shown[shown:], written)
            shown = len(answer.shown)
        if self._text.endswith(FAIL_MARKER):
            raise GenerationError("The echo died away. Send the job again.")
        yield Delta(answer.final[shown:], len(ids))
        self._finished = Completion(answer.final, "stop", len(ids), len(ids), 1.0, 0.1)


class EchoEngine:
    """Says again what the user said last."""

    concurrency = 64
    vram_used_mb = 0
    models: Mapping[str, ModelInfo] = {"qwen_instruct": ModelInfo(1_000_000)}

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def check(self, request: ChatRequest) -> None:
        """Everything can be said again."""

    def start(self, request: ChatRequest, cancel: CancelToken) -> EchoStream:
        return EchoStream(self._tokenizer, request.messages[-1].content, cancel)

    def close(self) -> None:
        """There is nothing to let go of."""


def load(settings: Settings) -> ChatRecipe:
    tokenizer = AutoTokenizer.from_pretrained(settings.models_dir / "qwen_instruct")
    return ChatRecipe(EchoEngine(tokenizer), ChatSettings(settings.sfw_words, settings.chat_streaming))


if __name__ == "__main__":
    serve(replace(HANDLER, load=load, libraries=(), weights=()))
