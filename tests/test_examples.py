"""Every example request runs, made small; what this worker cannot do yet is refused by name."""

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
from shared.jobs.delivery.callbacks import Courier
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Completed, Failed, Job, Worker, run_job
from shared.jobs.recipe import Run
from shared.media.images import encode_image
from shared.settings import Settings
from shared.storage.local_disk import LocalDisk
from shared.webhooks import Webhook

EXAMPLES = sorted((Path(__file__).parents[1] / "examples/requests").glob("*.json"))
SMALL: dict[str, dict[str, Any]] = {
    "sdxl": {"resolution": "64x64", "steps": 10},
    "wan": {"width": 64, "height": 64, "frames": 5, "steps": 2},
    "chat": {"max_tokens": 4},
}
# They have references to resemble, or ask for a refiner, and the small models have neither adapters nor that.
REFUSED = {"sdxl_as_the_live_caller_sends_it", "sdxl_several_references", "sdxl_larger"}
# In place of pictures that are nowhere: the example hosts do not exist.
PICTURE = "data:image/png;base64," + base64.b64encode(encode_image(np.full((48, 80, 3), 200, np.uint8), "png")).decode()


def at_hand(value: Any) -> Any:
    """The same with a picture in place of every URL of one."""
    match value:
        case str() if value.startswith("https://example.com/") and value.endswith(".png"):
            return PICTURE
        case dict():
            return {key: at_hand(inner) for key, inner in value.items()}
        case list():
            return [at_hand(inner) for inner in value]
    return value


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path, tiny_models: Path) -> None:
    name = path.stem.partition("_")[0]
    handler: Handler[Any] = importlib.import_module(f"handlers.{name}.handler").HANDLER
    settings = Settings(models_dir=tiny_models, output_dir=tmp_path, device="cpu")
    request = json.loads(path.read_text())["input"]
    request["config"] = request.get("config", {}) | SMALL[name]
    request = at_hand(request)
    disk = LocalDisk(tmp_path)
    with GpuThread() as gpu, ThreadPoolExecutor(4) as threads:
        recipe = gpu.submit(partial(handler.load, settings)).result()
        courier = Courier(disk, Webhook(settings), threads, unasked=False, announces=False)
        worker = Worker("example", handler.request, recipe, Operator(), disk, Fetcher(settings), courier, gpu)
        run = Run("example", CancelToken(60), lambda done, total, *, text=None, preview=None: None)
        end = asyncio.run(run_job(Job("example", request), worker, run))
    if path.stem in REFUSED:
        assert isinstance(end, Failed)
        assert end.error.code == "MODEL_UNAVAILABLE", end.payload.error_message
    else:
        assert isinstance(end, Completed), end.payload.error_message
        assert all((tmp_path / asset.url).is_file() for asset in end.payload.assets if asset.type != "text")
