"""Fixtures and helpers: the real recipes on tiny models, each loaded once per session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from handlers.chat.request import ChatRequest
from handlers.sdxl.request import SdxlRequest
from handlers.wan.request import WanRequest
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.recipe import ImageOutput, JobRun, Output, Recipe, TextOutput, VideoOutput
from shared.settings import Settings


class RecordedRun:
    """A `JobRun` that records progress and can be cancelled at a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.steps: list[tuple[int, int]] = []
        self.texts: list[str] = []
        self.previews: list[str] = []
        self.pieces: list[Any] = []
        self._stop_at = stop_at
        self.run = JobRun("job", CancelToken(600), self._report, self.pieces.append)

    def _report(self, done: int, total: int, *, text: str | None = None, preview: str | None = None) -> None:
        self.steps.append((done, total))
        if text is not None:
            self.texts.append(text)
        if preview is not None:
            self.previews.append(preview)
        if self._stop_at is not None and done >= self._stop_at:
            self.run.cancel.cancel()


def generate(
    recipe: Recipe[Any], request: Any, recorded: RecordedRun | None = None, references: Mapping[str, Image.Image] | None = None
) -> list[Output]:
    """Checks a request and returns all of its outputs."""
    recipe.check(request)
    return list(recipe.generate(request, references or {}, (recorded or RecordedRun()).run))


def image_outputs(outputs: list[Output]) -> list[ImageOutput]:
    return [output for output in outputs if isinstance(output, ImageOutput)]


def clip(outputs: list[Output]) -> VideoOutput:
    (only,) = outputs
    assert isinstance(only, VideoOutput)
    return only


def text(outputs: list[Output]) -> TextOutput:
    (only,) = outputs
    assert isinstance(only, TextOutput)
    return only


def sdxl(prompt: str = "a red circle", *, negative: str | None = None, **config: Any) -> SdxlRequest:
    """A request that is small and fast unless `config` overrides it."""
    settings = {"resolution": "64x64", "steps": 10, "seed": 7} | config
    raw: Mapping[str, object] = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": prompt, "config": settings}
    return SdxlRequest.parse({**raw, "negative_prompt": negative}, job_id="j")


def wan(prompt: str = "a red circle", kind: str = "video_fast", strength: float = 0.5, **config: Any) -> WanRequest:
    """A request that is small and fast unless `config` overrides it."""
    settings = {"width": 64, "height": 64, "frames": 9, "fps": 8, "steps": 3, "seed": 7} | config
    raw: Mapping[str, object] = {"id": "j", "user_id": "u", "type": kind, "prompt": prompt, "config": settings}
    return WanRequest.parse({**raw, "metadata": {"reference_strength": strength}}, job_id="j")


def chat(*contents: str, **fields: Any) -> ChatRequest:
    """A conversation that starts with the user, decoded greedily and briefly unless `fields` override it."""
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]
    return ChatRequest.parse({"type": "chat", "messages": messages, "temperature": 0, "max_tokens": 16} | fields, job_id="j")


@pytest.fixture(scope="session")
def settings(tiny_models: Path) -> Settings:
    return Settings(models_dir=tiny_models, device="cpu")


@pytest.fixture(scope="session")
def sdxl_recipe(settings: Settings) -> Recipe[SdxlRequest]:
    from handlers.sdxl.handler import load

    return load(settings)


@pytest.fixture(scope="session")
def wan_recipe(settings: Settings) -> Recipe[WanRequest]:
    from handlers.wan.handler import load

    return load(settings)


@pytest.fixture(scope="session")
def chat_recipe(settings: Settings) -> Recipe[ChatRequest]:
    from handlers.chat.handler import load

    return load(settings)


@pytest.fixture(scope="session")
def tokenizer(tiny_models: Path) -> Any:
    """The tokenizer of the tiny instruct model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_models / "qwen_instruct")


@pytest.fixture(scope="session")
def instruct(tiny_models: Path) -> Any:
    """The tiny instruct model, a `ChatModel`."""
    import torch

    from handlers.chat.engines.transformers.load import load_chat

    return load_chat(tiny_models / "qwen_instruct", torch.device("cpu"), torch.float32)
