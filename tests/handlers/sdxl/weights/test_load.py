"""Loading SDXL from a diffusers folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from numpy.typing import NDArray
from structlog.testing import capture_logs

from handlers.sdxl.decoding import decoder_dtype
from handlers.sdxl.weights.load import load_sdxl
from shared.weights.errors import WeightsError

CPU = torch.device("cpu")
Pixels = NDArray[np.float32]


@pytest.fixture(scope="module")
def sdxl(tiny_models: Path) -> Any:
    return load_sdxl(tiny_models / "sdxl", CPU, torch.float32)


@pytest.fixture
def copy(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models / "sdxl", tmp_path / "sdxl"))


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def draw(sdxl: Any, prompt: str, seed: int = 1, **options: object) -> Pixels:
    generator = torch.Generator().manual_seed(seed)
    image: Pixels = sdxl(prompt, num_inference_steps=10, width=64, height=64, generator=generator, output_type="np", **options).images[0]
    return image


def test_images_are_reproducible_and_depend_on_prompt_seed_and_negative_prompt(sdxl: Any) -> None:
    image = draw(sdxl, "a cat")
    assert image.shape == (64, 64, 3)
    assert np.isfinite(image).all()
    assert image.std() > 0.05
    assert np.array_equal(image, draw(sdxl, "a cat"))
    for other in (draw(sdxl, "a dog"), draw(sdxl, "a cat", seed=2), draw(sdxl, "a cat", negative_prompt="blurry")):
        assert np.abs(image - other).mean() > 0.01


def test_the_folder_determines_the_scheduler_and_the_encoding_of_empty_prompts(copy: Path, sdxl: Any) -> None:
    assert isinstance(sdxl.scheduler, EulerDiscreteScheduler)
    assert sdxl.config.force_zeros_for_empty_prompt is True
    rewrite(copy / "model_index.json", force_zeros_for_empty_prompt=False)
    rewrite(copy / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler")
    other = load_sdxl(copy, CPU, torch.float32)
    assert type(other.scheduler).__name__ == "DDIMScheduler"
    assert other.config.force_zeros_for_empty_prompt is False


def test_the_two_tokenizers_have_different_padding_tokens(sdxl: Any) -> None:
    assert (sdxl.tokenizer.pad_token, sdxl.tokenizer_2.pad_token) == ("<|endoftext|>", "!")


def test_a_vae_that_overflows_in_half_precision_encodes_in_float32(tiny_models: Path) -> None:
    half = load_sdxl(tiny_models / "sdxl", CPU, torch.float16)
    assert {half.unet.dtype, half.text_encoder.dtype, half.text_encoder_2.dtype, decoder_dtype(half.vae)} == {torch.float16}
    assert half.vae.dtype == torch.float32


def test_a_vae_that_does_not_overflow_is_loaded_in_half_precision(copy: Path) -> None:
    rewrite(copy / "vae" / "config.json", force_upcast=False)
    assert load_sdxl(copy, CPU, torch.float16).vae.dtype == torch.float16


@pytest.mark.parametrize("name", ["NoSuchScheduler", "UNet2DConditionModel", "__version__", None])
def test_an_unknown_scheduler_class_is_refused(copy: Path, name: str | None) -> None:
    rewrite(copy / "scheduler" / "scheduler_config.json", _class_name=name)
    with pytest.raises(WeightsError, match=r"the scheduler .* is unknown"):
        load_sdxl(copy, CPU, torch.float32)


def test_the_folder_of_another_model_is_refused(tiny_models: Path) -> None:
    with pytest.raises(WeightsError):
        load_sdxl(tiny_models / "wan", CPU, torch.float32)


def test_every_network_is_logged_with_its_throughput(tiny_models: Path) -> None:
    with capture_logs() as lines:
        load_sdxl(tiny_models / "sdxl", CPU, torch.float32)
    assert [line["component"] for line in lines] == ["sdxl/text_encoder", "sdxl/text_encoder_2", "sdxl/unet", "sdxl/vae"]
    assert all(line["gb_per_s"] >= 0 for line in lines)
