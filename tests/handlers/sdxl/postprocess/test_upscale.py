"""Tiled upscaling: factors, seams, cancellation and memory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.local_worker import bench_run, local_worker
from handlers.sdxl.handler import load
from handlers.sdxl.postprocess.architectures import build
from handlers.sdxl.postprocess.upscale import GRID, tile_spans, upscale_tiled
from handlers.sdxl.postprocess.upscaler import load_upscaler
from handlers.sdxl.recipe import SdxlRecipe
from handlers.sdxl.request import SdxlRequest
from shared.contract.callback import to_dict
from shared.errors import Cancelled, ModelUnavailable, OutOfMemory
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.lifecycle import Completed, Job, run_job
from shared.jobs.recipe import ImageOutput, JobRun, Recipe
from shared.settings import Settings
from tests.doubles.fault_injection import raising_oom
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl
from tests.handlers.sdxl.files import write_vae
from tests.handlers.sdxl.upscalers import build_network, esrgan, tensors_of, whole, write_upscaler

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def addons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("addons")
    write_upscaler(folder / "upscalers/four.safetensors", esrgan(blocks=1))
    write_upscaler(folder / "upscalers/two.safetensors", esrgan(blocks=1, unshuffle=True))
    write_upscaler(folder / "upscalers/three.safetensors", build_network("Compact", num_feat=8, num_conv=1, upscale=3))
    write_vae(folder / "vaes/other")
    tensors = tensors_of(esrgan(blocks=1))
    write_upscaler(folder / "upscalers/damaged.safetensors", {"model.0.weight": tensors["model.0.weight"]})
    write_upscaler(folder / "upscalers/odd.safetensors", tensors | {"model.8.weight": torch.zeros(1)})
    write_upscaler(folder / "upscalers/unfinished.safetensors", {name: part for name, part in tensors.items() if "RDB3" not in name})
    return folder


@pytest.fixture(scope="module")
def recipe(tiny_models: Path, addons: Path) -> Recipe[SdxlRequest]:
    return load(Settings(models_dir=addons, sdxl_model=tiny_models / "sdxl", device="cpu"))


def draw(recipe: Recipe[SdxlRequest], recorded: RecordedRun | None = None, **config: Any) -> ImageOutput:
    return image_outputs(generate(recipe, sdxl(**config), recorded))[0]


@pytest.mark.parametrize("factor", [2, 4])
def test_an_image_is_upscaled_by_the_requested_factor_and_the_metadata_says_so(
    recipe: Recipe[SdxlRequest], addons: Path, factor: int
) -> None:
    plain = draw(recipe, resolution="96x64")
    large = draw(recipe, resolution="96x64", upscale={"factor": factor})
    name = {2: "two", 4: "four"}[factor]
    assert large.pixels.shape == (64 * factor, 96 * factor, 3)
    assert large.metadata["upscale"] == {"factor": factor, "model": name}
    assert np.array_equal(large.pixels, whole(plain.pixels, esrgan(blocks=1, unshuffle=factor == 2)))


def test_a_network_of_factor_four_upscales_by_two_by_averaging(recipe: Recipe[SdxlRequest]) -> None:
    four = draw(recipe, upscale={"factor": 4}).pixels.astype(float)
    two = draw(recipe, upscale={"factor": 2, "model": "four"}).pixels
    means = four.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(two - means).max() <= 1


@pytest.mark.parametrize("name", ["two", "three"])
def test_a_network_whose_scale_is_no_multiple_of_the_factor_is_refused(recipe: Recipe[SdxlRequest], name: str) -> None:
    with pytest.raises(ModelUnavailable, match=rf"upscaler '{name}' does not support factor 4\. Available: four\."):
        recipe.check(sdxl(upscale={"factor": 4, "model": name}))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("damaged", "cannot be used"), ("odd", "cannot be used"), ("unfinished", "cannot be used"), ("absent", "is not installed")],
)
def test_an_upscaler_that_is_damaged_or_not_installed_is_refused(recipe: Recipe[SdxlRequest], name: str, reason: str) -> None:
    with pytest.raises(ModelUnavailable, match=rf"^Upscaler '{name}' {reason}"):
        recipe.check(sdxl(upscale={"factor": 4, "model": name}))


def test_tiles_cover_a_side_exactly_once() -> None:
    for length in (64, 504, 512, 520, 1024, 1048, 2048):
        tiles = list(tile_spans(length, 512, 96))
        assert [own.start for own, _ in tiles] == [0, *(own.stop for own, _ in tiles[:-1])]
        assert tiles[-1][0].stop == length
        for own, seen in tiles:
            assert own.stop - own.start < 512 + GRID
            assert (seen.start, seen.stop) == (max(0, own.start - 96), min(length, own.stop + 96))
            assert own.start % GRID == seen.start % GRID == 0


def test_a_job_is_cancelled_between_tiles() -> None:
    network, tiles = build(tensors_of(esrgan(blocks=1)), "network"), 0

    def check() -> None:
        nonlocal tiles
        tiles += 1
        if tiles == 3:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        upscale_tiled(np.zeros((64, 96, 3), np.uint8), network, 4, check, tile=32, overlap=0)
    assert tiles == 3


def test_out_of_memory_shrinks_the_tiles_without_changing_the_image(recipe: Recipe[SdxlRequest]) -> None:
    assert isinstance(recipe, SdxlRecipe)
    expected = draw(recipe, upscale={"factor": 4}).pixels
    network = recipe._addons.load("upscalers", "four", lambda file: load_upscaler(file, CPU, torch.float32), lambda _: 0)
    for times in (1, 2):
        recorded = RecordedRun()
        with raising_oom(network.model, times=times):
            made = draw(recipe, recorded, upscale={"factor": 4}).pixels
        assert np.array_equal(made, expected), times
        assert recorded.run.warnings == ["Out of memory; the image was upscaled in smaller tiles."]
    with raising_oom(network.model, times=3), pytest.raises(OutOfMemory, match=r"Omit `config\.upscale`"):
        draw(recipe, upscale={"factor": 4})


class CancelledAtCheck(CancelToken):
    """Cancels a job at the nth check."""

    def __init__(self, check: int) -> None:
        super().__init__(600)
        self._checks_left = check

    def check(self) -> None:
        self._checks_left -= 1
        if self._checks_left == 0:
            raise Cancelled("stopped")


def test_a_job_cancelled_while_upscaling_restores_the_pipeline(recipe: Recipe[SdxlRequest]) -> None:
    assert isinstance(recipe, SdxlRecipe)
    own = recipe._pipeline.vae
    checks = 10 + 1  # one per step, and one before decoding; the next is before the only tile
    request = sdxl(vae="other", upscale={"factor": 2})
    making = recipe.generate(request, {}, JobRun("j", CancelledAtCheck(checks + 1), lambda done, total, *, text=None, preview=None: None))
    with pytest.raises(Cancelled) as stopped:
        next(making)
    assert stopped.traceback[-1].name == "check"
    assert any(entry.name == "upscale_tiled" for entry in stopped.traceback)
    assert recipe._pipeline.vae is own


def test_the_stored_image_and_the_payload_have_the_upscaled_size(tiny_models: Path, addons: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/sdxl").symlink_to(tiny_models / "sdxl")
    (tmp_path / "models/upscalers").symlink_to(addons / "upscalers")
    config = {"resolution": "96x64", "steps": 10, "upscale": {"factor": 4}, "enhance": {"sharpen": 0.5}}
    raw = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "a red circle", "config": config}
    with local_worker("sdxl", tmp_path / "models", tmp_path / "out") as worker:
        ended = asyncio.run(run_job(Job("j", raw), worker, bench_run()))
    assert isinstance(ended, Completed)
    (asset,) = to_dict(ended.payload)["assets"]
    assert (asset["metadata"]["width"], asset["metadata"]["height"]) == (384, 256)
    assert asset["metadata"]["upscale"] == {"factor": 4, "model": "four"}
    assert asset["metadata"]["enhance"] == {"sharpen": 0.5, "contrast": 0.0}
    with Image.open(tmp_path / "out" / asset["temp_storage_path"]) as stored:
        assert stored.size == (384, 256)


def test_exact_copies_are_upscaled(recipe: Recipe[SdxlRequest]) -> None:
    raw = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "", "config": {"resolution": "64x64", "upscale": {"factor": 2}}}
    told = {"reference_image_url": "https://a.example/b.png", "exact_copy_mode": True}
    request = SdxlRequest.parse({**raw, "metadata": told}, job_id="j")
    made = image_outputs(generate(recipe, request, references={"metadata.reference_image_url": Image.new("RGB", (64, 64), "red")}))
    assert made[0].pixels.shape == (128, 128, 3)


def test_every_image_of_a_batch_is_upscaled_and_later_jobs_are_not(recipe: Recipe[SdxlRequest]) -> None:
    before = draw(recipe).pixels
    many = image_outputs(generate(recipe, sdxl(num_images=3, upscale={"factor": 2})))
    assert [image.pixels.shape for image in many] == [(128, 128, 3)] * 3
    assert np.array_equal(draw(recipe).pixels, before)
