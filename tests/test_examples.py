"""Every example request runs at a small size, or fails because a model is not installed."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.contract.request import Operator
from shared.fetch import Fetcher
from shared.handler import Handler
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Completed, Failed, Job, Worker, run_job
from shared.jobs.recipe import JobRun
from shared.media.encoding import encode_image
from shared.settings import Settings
from shared.storage.local_disk import LocalDisk
from shared.webhooks import Webhook

EXAMPLES = sorted((Path(__file__).parents[1] / "examples/requests").glob("*.json"))
SMALL: dict[str, dict[str, Any]] = {
    "sdxl": {"resolution": "64x64", "steps": 10},
    "wan": {"width": 64, "height": 64, "frames": 5, "steps": 2},
    "chat": {"max_tokens": 4},
}
# These use references or a refiner, and the tiny models include neither IP-Adapters nor a refiner.
UNAVAILABLE = {"sdxl_live_caller", "sdxl_several_references", "sdxl_larger"}
# Replaces the image URLs, whose hosts do not exist.
IMAGE = "data:image/png;base64," + base64.b64encode(encode_image(np.full((48, 80, 3), 200, np.uint8), "png")).decode()


def with_embedded_images(value: Any) -> Any:
    """Replaces every image URL by an embedded image."""
    match value:
        case str() if value.startswith("https://example.com/") and value.endswith(".png"):
            return IMAGE
        case dict():
            return {key: with_embedded_images(inner) for key, inner in value.items()}
        case list():
            return [with_embedded_images(inner) for inner in value]
    return value


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path, tiny_models: Path) -> None:
    name = path.stem.partition("_")[0]
    handler: Handler[Any] = importlib.import_module(f"handlers.{name}.handler").HANDLER
    settings = Settings(models_dir=tiny_models, output_dir=tmp_path, device="cpu")
    request = json.loads(path.read_text())["input"]
    request["config"] = request.get("config", {}) | SMALL[name]
    request = with_embedded_images(request)
    disk = LocalDisk(tmp_path)
    with GpuThread() as gpu, ThreadPoolExecutor(4) as threads:
        recipe = gpu.submit(partial(handler.load, settings)).result()
        callbacks = CallbackDispatcher(disk, Webhook(settings), threads, always_callback=False, send_processing=False)
        worker = Worker("example", handler.request, recipe, Operator(), disk, Fetcher(settings), callbacks, gpu)
        run = JobRun("example", CancelToken(60), lambda done, total, *, text=None, preview=None: None)
        outcome = asyncio.run(run_job(Job("example", request), worker, run))
    if path.stem in UNAVAILABLE:
        assert isinstance(outcome, Failed)
        assert outcome.error.code == "MODEL_UNAVAILABLE", outcome.payload.error_message
    else:
        assert isinstance(outcome, Completed), outcome.payload.error_message
        assert all((tmp_path / asset.url).is_file() for asset in outcome.payload.assets if asset.type != "text")
