"""Complete WAN jobs, from request to stored assets: every type and alias, extras, and failures at each stage."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from shared.contract.callback import to_dict
from shared.contract.request import Operator
from shared.errors import UploadError
from shared.fetch import Fetcher
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Job, Worker, run_job
from shared.jobs.recipe import JobRun, Recipe
from shared.media.videos import Encoding
from shared.settings import Settings
from shared.storage.local_disk import LocalDisk
from shared.storage.protocol import StoredObject
from shared.webhooks import Webhook
from tests.doubles.schemas import payload_schema
from tests.shared.jobs.conftest import ignore_progress

Wan = Recipe[WanRequest]
SMALL: Mapping[str, Any] = {"width": 64, "height": 64, "frames": 6, "fps": 8, "steps": 2, "seed": 7}


class Disk(LocalDisk):
    """Local storage that calls a function before each write."""

    def __init__(self, folder: Path, before: Callable[[str], None] = lambda key: None) -> None:
        super().__init__(folder)
        self.folder = folder
        self._before = before

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        self._before(key)
        return super().put(key, content, content_type, seconds=seconds)

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file() and path.name != "callback.json")


@contextmanager
def worker_on(recipe: Wan, disk: Disk) -> Iterator[Worker[WanRequest]]:
    settings = Settings()
    with GpuThread() as gpu, ThreadPoolExecutor(4) as threads:
        callbacks = CallbackDispatcher(disk, Webhook(settings), threads, always_callback=False, send_processing=False)
        yield Worker("wan_worker_test", WanRequest, recipe, Operator(), disk, Fetcher(settings), callbacks, gpu)


def run(recipe: Wan, disk: Disk, *, report: Any = ignore_progress, token: CancelToken | None = None, **request: Any) -> dict[str, Any]:
    """Runs a small job, changed by `request`, and returns its payload."""
    config = {**SMALL, **request.pop("config", {})}
    raw = {"id": "job", "user_id": "user", "type": "video_fast", "prompt": "a red circle", "config": config} | request
    with worker_on(recipe, disk) as worker:
        ended = asyncio.run(run_job(Job("job", raw), worker, JobRun("job", token or CancelToken(600), report)))
    return to_dict(ended.payload)


def completed(recipe: Wan, disk: Disk, **request: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs a job that must complete, and returns its payload and asset."""
    payload = run(recipe, disk, **request)
    assert payload["status"] == "completed", payload["error_message"]
    Draft202012Validator(payload_schema("wan")).validate(payload)
    (asset,) = payload["assets"]
    return payload, asset


@pytest.mark.parametrize(
    ("sent", "plain"),
    [
        ("video_fast", "video_fast"),
        ("video_high", "video_high"),
        ("wan_generate", "wan_generate"),
        ("wan_video_fast", "video_fast"),
        ("wan_video_high", "video_high"),
        ("video7b_fast_enhanced", "video_fast"),
        ("video7b_high_enhanced", "video_high"),
    ],
)
def test_every_video_type_and_alias_makes_a_clip(wan_recipe: Wan, tmp_path: Path, sent: str, plain: str) -> None:
    disk = Disk(tmp_path)
    payload, asset = completed(wan_recipe, disk, type=None, job_type=sent)
    assert payload["metadata"]["job_type"] == plain
    assert (asset["type"], asset["mime_type"], asset["url"]) == ("video", "video/mp4", "user/job/0.mp4")
    assert disk.files == ["0.mp4", "0.thumb.webp"]
    assert len(iio.imread(tmp_path / asset["url"], plugin="pyav")) == asset["metadata"]["frames"] == 6
    assert asset["duration_seconds"] == 6 / 8


@pytest.mark.parametrize("sent", ["image_fast", "image_high", "image7b_fast_enhanced", "image7b_high_enhanced"])
def test_every_image_type_and_alias_makes_an_image(wan_recipe: Wan, tmp_path: Path, sent: str) -> None:
    payload, asset = completed(wan_recipe, Disk(tmp_path), type=sent, config={"frames": None, "fps": None})
    assert payload["metadata"]["job_type"] in ("image_fast", "image_high")
    assert (asset["type"], asset["mime_type"], asset["url"]) == ("image", "image/png", "user/job/0.png")
    with Image.open(tmp_path / asset["url"]) as image:
        assert (image.format, image.size) == ("PNG", (64, 64))


def test_the_live_callers_request_with_nulls_and_unknown_fields_succeeds(wan_recipe: Wan, tmp_path: Path) -> None:
    sent = {
        "type": None,
        "job_type": "wan_video_fast",
        "quality": "fast",
        "format": "mp4",
        "resolution": "1024x576",
        "negative_prompt": None,
        "compel_enabled": False,
        "batch_size": 1,
        "callback_url": None,
        "config": {"width": None, "height": None, "fps": None, "image": None, "frame_num": 1, "sample_steps": 1, "num_images": 1,
                   "frames": None, "steps": None, "guidance_scale": None, "sample_guide_scale": 1.0, "scheduler": "euler", "seed": None},
        "metadata": {"reference_image_url": None, "reference_mode": "modify", "exact_copy_mode": False, "denoise_strength": 0.35,
                     "video_reference_mode": None, "credits_used": 2},
    }  # fmt: skip
    payload, asset = completed(wan_recipe, Disk(tmp_path), **sent)
    assert (asset["metadata"]["width"], asset["metadata"]["height"], asset["metadata"]["steps"]) == (832, 480, 1)
    assert (asset["metadata"]["frames"], asset["metadata"]["fps"], asset["metadata"]["guidance_scale"]) == (1, 24, 1.0)
    warnings = " ".join(payload["metadata"]["warnings"])
    assert "1024x576 is not a valid clip size; the nearest one, 832x480" in warnings
    assert "config.scheduler" in warnings


def test_extras_are_stored_and_listed_in_the_asset(wan_recipe: Wan, tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    _, asset = completed(wan_recipe, disk, config={"extras": ["gif", "poster", "webm"]})
    assert [(extra["kind"], extra["url"], extra["mime_type"]) for extra in asset["extras"]] == [
        ("gif", "user/job/0.preview.gif", "image/gif"),
        ("poster", "user/job/0.poster.png", "image/png"),
        ("webm", "user/job/0.webm", "video/webm"),
    ]
    assert [extra["file_size_bytes"] for extra in asset["extras"]] == [
        (tmp_path / extra["url"]).stat().st_size for extra in asset["extras"]
    ]
    assert disk.files == ["0.mp4", "0.poster.png", "0.preview.gif", "0.thumb.webp", "0.webm"]


def test_without_extras_only_the_same_clip_is_stored(wan_recipe: Wan, tmp_path: Path) -> None:
    with_extras, without = Disk(tmp_path / "with"), Disk(tmp_path / "without")
    completed(wan_recipe, with_extras, config={"extras": ["poster", "webm"]})
    _, asset = completed(wan_recipe, without)
    assert "extras" not in asset
    assert (with_extras.folder / asset["url"]).read_bytes() == (without.folder / asset["url"]).read_bytes()


def test_extras_of_an_image_are_ignored_with_a_warning(wan_recipe: Wan, tmp_path: Path) -> None:
    payload, asset = completed(wan_recipe, Disk(tmp_path), type="image_fast", config={"extras": ["webm"]})
    assert "extras" not in asset
    assert any(warning.startswith("`config.extras` was ignored") for warning in payload["metadata"]["warnings"])


@pytest.mark.parametrize("refused", ["0.mp4", "0.thumb.webp", "0.webm"])
def test_a_storage_failure_fails_the_job_and_not_the_next(wan_recipe: Wan, tmp_path: Path, refused: str) -> None:
    def refuse(key: str) -> None:
        if key.endswith(refused):
            raise UploadError("rejected", retryable=False)

    failed = run(wan_recipe, Disk(tmp_path, refuse), config={"extras": ["webm"]})
    assert (failed["status"], failed["metadata"]["error_code"], failed["assets"]) == ("failed", "UPLOAD_ERROR", [])
    completed(wan_recipe, Disk(tmp_path))


def test_a_repeated_job_overwrites_its_assets_with_equal_ones(wan_recipe: Wan, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        completed(wan_recipe, Disk(tmp_path), config={"extras": ["poster", "webm", "gif"]})
        contents.append({path.name: path.read_bytes() for path in tmp_path.rglob("0.*")})
    assert contents[0] == contents[1]


def test_a_job_cancelled_during_decoding_stops_at_once(wan_recipe: Wan, tmp_path: Path) -> None:
    token, disk = CancelToken(600), Disk(tmp_path)

    def stop_at_the_last_step(step: int, steps: int, **_: Any) -> None:
        if step == steps:
            token.cancel()

    stopped = run(wan_recipe, disk, report=stop_at_the_last_step, token=token)
    assert stopped["metadata"]["error_code"] == "CANCELLED"
    assert disk.files == []
    completed(wan_recipe, Disk(tmp_path))


def test_a_deadline_that_expires_during_denoising_fails_the_job(wan_recipe: Wan, tmp_path: Path) -> None:
    failed = run(wan_recipe, Disk(tmp_path), token=CancelToken(1e-6))
    assert failed["metadata"]["error_code"] == "JOB_TIMEOUT"


def test_previews_are_sent_in_progress_updates_only_on_request(wan_recipe: Wan, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    completed(wan_recipe, Disk(tmp_path), report=lambda step, steps, **more: seen.append(more), config={"preview": True})
    assert len(seen) == 2
    assert all(str(update["preview"]).startswith("data:image/webp;base64,") for update in seen)


def test_the_smallest_and_largest_seed_make_clips(wan_recipe: Wan, tmp_path: Path) -> None:
    made = []
    for seed in (0, 2_147_483_647):
        _, asset = completed(wan_recipe, Disk(tmp_path), config={"seed": seed})
        assert asset["generation_seed"] == asset["metadata"]["seed"] == seed
        made.append((tmp_path / asset["url"]).read_bytes())
    assert made[0] != made[1]


@pytest.mark.parametrize("size", [(16, 16), (16, 512), (512, 16), (208, 48)], ids=str)
@pytest.mark.parametrize("count", [1, 2])
def test_extreme_sizes_make_clips_with_all_extras(wan_recipe: Wan, tmp_path: Path, size: tuple[int, int], count: int) -> None:
    config = {
        "width": size[0],
        "height": size[1],
        "frames": count,
        "fps": 24,
        "steps": 1,
        "extras": ["poster", "webm", "gif"],
        "preview": True,
    }
    _, asset = completed(wan_recipe, Disk(tmp_path), config=config)
    width, height = size
    assert iio.imread(tmp_path / asset["url"], plugin="pyav").shape == (count, height, width, 3)
    with Image.open(tmp_path / "user/job/0.poster.png") as poster:
        assert poster.size == size


@pytest.mark.parametrize("size", [(16, 128), (128, 16), (517, 333)], ids=str)
def test_references_of_extreme_sizes_are_used(wan_recipe: Wan, tmp_path: Path, size: tuple[int, int]) -> None:
    buffer = BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, "png")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    payload, _ = completed(wan_recipe, Disk(tmp_path), config={"first_frame": url, "last_frame": url, "width": 208, "height": 48})
    assert payload["metadata"]["reference_mode"] == "both"


def test_an_image_can_have_two_references(wan_recipe: Wan, tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "png")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    _, asset = completed(wan_recipe, Disk(tmp_path), type="image_high", config={"first_frame": url, "last_frame": url})
    assert asset["metadata"]["width"] == 64


def test_a_video_encoder_failure_fails_the_job_and_not_the_next(wan_recipe: Wan, tmp_path: Path) -> None:
    assert isinstance(wan_recipe, WanRecipe)
    encoding = Encoding("h264_nvenc")  # rejects clips of 16 pixels, and needs a GPU
    failing, disk = WanRecipe(wan_recipe._pipelines, wan_recipe._addons, encoding), Disk(tmp_path)
    failed = run(failing, disk, config={"width": 16, "height": 16})
    assert (failed["status"], failed["assets"], disk.files) == ("failed", [], [])
    completed(wan_recipe, disk)
