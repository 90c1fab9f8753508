"""Loads whatever it is told to, and says what was opened and run meanwhile: `python -m tests.untrusted.audited_loader`.

Reads JSON lines of `[number, loader, path]` from standard input and answers each with one line. Python's own audit hook watches from
below: every file that is opened by Python, every name that an unpickler looks up, every process that is started.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEEN: list[str] = []
ARCHIVES = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".zip", ".py")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        SEEN.append(f"{event} {arguments[:2]}")
    elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.fsdecode(arguments[0])
        if "hostile" in path and path.endswith(ARCHIVES):
            SEEN.append(f"open {Path(path).name}")
    elif event == "import" and "hostile" in str(arguments[0]):
        SEEN.append(f"import {arguments[0]}")


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
    """Loads a language model, and writes a conversation in its template."""
    import torch

    from handlers.chat.engines.transformers.chat_format import ChatFormat
    from handlers.chat.engines.transformers.load import load_chat
    from handlers.chat.request import Message

    ChatFormat(load_chat(path, torch.device("cpu"), torch.float32), transcript=False).render([Message(role="user", content="Hello")])


def _job(path: Path) -> None:
    """Does the job of `job.json` with the small SDXL and the addons at `path`."""
    import torch
    from PIL import Image

    from handlers.sdxl.recipe import SdxlRecipe
    from handlers.sdxl.request import SdxlRequest
    from handlers.sdxl.weights.load import load_sdxl
    from shared.jobs.execution.cancel import CancelToken
    from shared.jobs.recipe import JobRun
    from shared.weights.addons import AddonLibrary

    if "pipeline" not in _KEPT:
        _KEPT["pipeline"] = load_sdxl(Path(os.environ["TINY_MODELS"]) / "sdxl", torch.device("cpu"), torch.float32)
    recipe = SdxlRecipe(_KEPT["pipeline"], AddonLibrary(path), img2img_only=False, safety_check=(path / "safety_checker").exists())
    request = SdxlRequest.parse(json.loads((path / "job.json").read_text()), job_id="j")
    recipe.check(request)
    references = {name: Image.new("RGB", (64, 64), "red") for name in request.references}
    list(recipe.generate(request, references, JobRun("j", CancelToken(600), lambda *_, **__: None)))


def _wan_job(path: Path) -> None:
    """The same with the small WAN."""
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


_KEPT: dict[str, Any] = {}
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
    """Answers until there is nothing left to load."""
    from shared.settings import prepare_environment

    prepare_environment()
    sys.addaudithook(_watch)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        number, loader, path = json.loads(line)
        SEEN.clear()
        outcome = "loaded"
        try:
            LOADERS[loader](Path(path))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test judges it
            outcome = f"{type(error).__name__}: {error}"
        print(json.dumps([number, outcome, SEEN]), file=answers, flush=True)


if __name__ == "__main__":
    main()
