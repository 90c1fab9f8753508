"""Loads untrusted files under a Python audit hook: `python -m tests.untrusted.audited_loader`.

Reads JSON lines of `[number, loader, path]` from standard input and responds to each with one line. The hook records every suspicious file
that Python opens, every name that an unpickler resolves, and every process that is started.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVENTS: list[str] = []
ARCHIVES = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".zip", ".py")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        EVENTS.append(f"{event} {arguments[:2]}")
    elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.fsdecode(arguments[0])
        if "hostile" in path and path.endswith(ARCHIVES):
            EVENTS.append(f"open {Path(path).name}")
    elif event == "import" and "hostile" in str(arguments[0]):
        EVENTS.append(f"import {arguments[0]}")


def _unet(path: Path) -> None:
    from diffusers import UNet2DConditionModel

    _network(UNet2DConditionModel, path)


def _clip(path: Path) -> None:
    from transformers import CLIPTextModel

    _network(CLIPTextModel, path)


def _network(kind: Any, path: Path) -> None:
    import torch

    from shared.models.load import load_network

    load_network(kind, path, name="a network", device=torch.device("cpu"), dtype=torch.float32)


def _sdxl(path: Path) -> None:
    import torch

    from handlers.sdxl.weights.load import load_sdxl

    load_sdxl(path, torch.device("cpu"), torch.float32)


def _wan(path: Path) -> None:
    import torch

    from handlers.wan.weights.load import load_wan

    load_wan(path, torch.device("cpu"), torch.float32)


def _chat(path: Path) -> None:
    """Loads a language model and renders a conversation with its chat template."""
    import torch

    from handlers.chat.engines.transformers.load import load_chat
    from handlers.chat.prompt_renderer import PromptRenderer
    from handlers.chat.request import ChatRequest

    tokenizer = load_chat(path, torch.device("cpu"), torch.float32).tokenizer
    PromptRenderer(tokenizer, transcript=False).take(ChatRequest.parse({"prompt": "Hello"}, job_id="j"))


def _job(path: Path) -> None:
    """Runs the job of `job.json` with the tiny SDXL and the add-ons in `path`."""
    import torch
    from PIL import Image

    from handlers.sdxl.recipe import SdxlRecipe
    from handlers.sdxl.request import SdxlRequest
    from handlers.sdxl.weights.load import load_sdxl
    from shared.jobs.execution.cancel import CancelToken
    from shared.jobs.recipe import JobRun
    from shared.weights.addons import AddonLibrary

    if "pipeline" not in _CACHE:
        _CACHE["pipeline"] = load_sdxl(Path(os.environ["TINY_MODELS"]) / "sdxl", torch.device("cpu"), torch.float32)
    recipe = SdxlRecipe(_CACHE["pipeline"], AddonLibrary(path), img2img_only=False, safety_check=(path / "safety_checker").exists())
    request = SdxlRequest.parse(json.loads((path / "job.json").read_text()), job_id="j")
    recipe.check(request)
    references = {name: Image.new("RGB", (64, 64), "red") for name in request.references}
    list(recipe.generate(request, references, JobRun("j", CancelToken(600), lambda *_, **__: None)))


def _wan_job(path: Path) -> None:
    """Runs the job of `job.json` with the tiny WAN and the add-ons in `path`."""
    import torch

    from handlers.wan.recipe import WanRecipe
    from handlers.wan.request import WanRequest
    from handlers.wan.weights.load import load_wan
    from shared.jobs.execution.cancel import CancelToken
    from shared.jobs.recipe import JobRun
    from shared.media.videos import DEFAULT_ENCODING
    from shared.weights.addons import AddonLibrary

    recipe = WanRecipe(
        load_wan(Path(os.environ["TINY_MODELS"]) / "wan", torch.device("cpu"), torch.float32), AddonLibrary(path), DEFAULT_ENCODING
    )
    request = WanRequest.parse(json.loads((path / "job.json").read_text()), job_id="j")
    recipe.check(request)
    list(recipe.generate(request, {}, JobRun("j", CancelToken(600), lambda *_, **__: None)))


_CACHE: dict[str, Any] = {}
LOADERS: dict[str, Callable[[Path], None]] = {
    "unet": _unet,
    "clip": _clip,
    "sdxl": _sdxl,
    "wan": _wan,
    "chat": _chat,
    "job": _job,
    "wan job": _wan_job,
}


def main() -> None:
    """Serves requests until standard input is closed."""
    from handlers.chat.template_renderer import template_renderer
    from shared.settings import prepare_environment

    prepare_environment()
    template_renderer().start()  # a process that the worker itself starts
    sys.addaudithook(_audit)
    responses, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        number, loader, path = json.loads(line)
        EVENTS.clear()
        outcome = "loaded"
        try:
            LOADERS[loader](Path(path))
        except Exception as error:  # noqa: BLE001 - the test checks the error
            outcome = f"{type(error).__name__}: {error}"
        print(json.dumps([number, outcome, EVENTS]), file=responses, flush=True)


if __name__ == "__main__":
    main()
