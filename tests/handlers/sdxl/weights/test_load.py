from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, EulerDiscreteScheduler
from numpy.typing import NDArray
from structlog.testing import capture_logs

from handlers.sdxl.weights.load import load_sdxl
from handlers.wan.weights.load import load_wan
from shared.weights.errors import WeightsError

CPU = torch.device("cpu")
Pixels = NDArray[np.float32]


@pytest.fixture(scope="module")
def sdxl(tiny_models: Path) -> Any:
    return load_sdxl(tiny_models / "sdxl", CPU, torch.float32)


@pytest.fixture(scope="module")
def wan(tiny_models: Path) -> Any:
    return load_wan(tiny_models / "wan", CPU, torch.float32).text_to_video


@pytest.fixture
def copy(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models, tmp_path / "models"))


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def draw(sdxl: Any, prompt: str, seed: int = 1, **options: object) -> Pixels:
    generator = torch.Generator().manual_seed(seed)
    image: Pixels = sdxl(prompt, num_inference_steps=10, width=64, height=64, generator=generator, output_type="np", **options).images[0]
    return image


def film(wan: Any, prompt: str, seed: int = 1, frames: int = 9, **options: object) -> Pixels:
    generator = torch.Generator().manual_seed(seed)
    size = {"width": 64, "height": 64, "num_frames": frames}
    clip: Pixels = wan(prompt, num_inference_steps=2, **size, generator=generator, output_type="np", **options).frames[0]
    return clip


def test_sdxl_draws_the_same_picture_twice_and_another_for_another_prompt_seed_or_negative_prompt(sdxl: Any) -> None:
    picture = draw(sdxl, "a cat")
    assert picture.shape == (64, 64, 3)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.05
    assert np.array_equal(picture, draw(sdxl, "a cat"))
    for other in (draw(sdxl, "a dog"), draw(sdxl, "a cat", seed=2), draw(sdxl, "a cat", negative_prompt="blurry")):
        assert np.abs(picture - other).mean() > 0.01


def test_sdxl_takes_its_scheduler_and_its_rule_for_empty_prompts_from_the_folder(copy: Path, sdxl: Any) -> None:
    assert isinstance(sdxl.scheduler, EulerDiscreteScheduler)
    assert sdxl.config.force_zeros_for_empty_prompt is True
    rewrite(copy / "sdxl" / "model_index.json", force_zeros_for_empty_prompt=False)
    rewrite(copy / "sdxl" / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler")
    other = load_sdxl(copy / "sdxl", CPU, torch.float32)
    assert type(other.scheduler).__name__ == "DDIMScheduler"
    assert other.config.force_zeros_for_empty_prompt is False


def test_the_two_tokenizers_of_sdxl_pad_differently(sdxl: Any) -> None:
    assert (sdxl.tokenizer.pad_token, sdxl.tokenizer_2.pad_token) == ("<|endoftext|>", "!")


def test_in_half_precision_the_vae_of_sdxl_that_overflows_stays_in_full(tiny_models: Path) -> None:
    half = load_sdxl(tiny_models / "sdxl", CPU, torch.float16)
    assert {half.unet.dtype, half.text_encoder.dtype, half.text_encoder_2.dtype} == {torch.float16}
    assert half.vae.dtype == torch.float32


def test_in_half_precision_a_vae_that_does_not_overflow_is_in_half_as_well(copy: Path) -> None:
    rewrite(copy / "sdxl" / "vae" / "config.json", force_upcast=False)
    assert load_sdxl(copy / "sdxl", CPU, torch.float16).vae.dtype == torch.float16


def test_wan_films_the_same_clip_twice_and_another_for_another_prompt_or_seed(wan: Any) -> None:
    clip = film(wan, "a cat")
    assert clip.shape == (9, 64, 64, 3)
    assert np.isfinite(clip).all()
    assert np.array_equal(clip, film(wan, "a cat"))
    assert np.abs(clip - film(wan, "a cat", seed=2)).mean() > 0.01
    assert np.abs(clip - film(wan, "a dog in the garden")).mean() > 0.001
    assert np.abs(clip[0] - clip[-1]).mean() > 0.01


def test_wan_makes_a_single_frame(wan: Any) -> None:
    assert film(wan, "a cat", frames=1).shape == (1, 64, 64, 3)


def test_in_half_precision_the_vae_of_wan_stays_in_full(tiny_models: Path) -> None:
    half = load_wan(tiny_models / "wan", CPU, torch.bfloat16)
    assert (half.text_to_video.transformer.dtype, half.text_to_video.text_encoder.dtype, half.text_to_video.vae.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )
    assert isinstance(half.text_to_video.vae, AutoencoderKLWan)


def test_the_part_for_text_takes_no_memory_of_its_own(tiny_models: Path) -> None:
    wan = load_wan(tiny_models / "wan", CPU, torch.float32)
    assert wan.vace is not None
    whole = {tensor.data_ptr() for tensor in wan.vace.transformer.state_dict().values()}
    assert {tensor.data_ptr() for tensor in wan.text_to_video.transformer.state_dict().values()} < whole
    assert not any(tensor.is_meta for tensor in wan.text_to_video.transformer.buffers())


def test_the_part_for_text_is_the_whole_without_its_hints_bit_for_bit(tiny_models: Path) -> None:
    wan = load_wan(tiny_models / "wan", CPU, torch.float32)
    assert np.array_equal(film(wan.text_to_video, "a cat"), film(wan.vace, "a cat", conditioning_scale=0.0))
    assert not np.array_equal(film(wan.text_to_video, "a cat"), film(wan.vace, "a cat"))


def test_a_folder_with_the_plain_transformer_knows_text_alone(copy: Path, wan: Any) -> None:
    shutil.rmtree(copy / "wan" / "transformer")
    wan.transformer.save_pretrained(copy / "wan" / "transformer", max_shard_size="300KB")
    plain = load_wan(copy / "wan", CPU, torch.float32)
    assert plain.vace is None
    assert np.array_equal(film(plain.text_to_video, "a cat"), film(wan, "a cat"))


@pytest.mark.parametrize("name", ["NoSuchScheduler", "UNet2DConditionModel", "__version__", None])
def test_a_scheduler_that_is_none_is_refused(copy: Path, name: str | None) -> None:
    rewrite(copy / "sdxl" / "scheduler" / "scheduler_config.json", _class_name=name)
    with pytest.raises(WeightsError, match=r"the scheduler .* is unknown"):
        load_sdxl(copy / "sdxl", CPU, torch.float32)


def test_the_folder_of_another_model_is_refused(tiny_models: Path) -> None:
    with pytest.raises(WeightsError):
        load_sdxl(tiny_models / "wan", CPU, torch.float32)
    with pytest.raises(WeightsError):
        load_wan(tiny_models / "sdxl", CPU, torch.float32)


def test_every_component_has_its_line_in_the_log(tiny_models: Path) -> None:
    with capture_logs() as lines:
        load_sdxl(tiny_models / "sdxl", CPU, torch.float32)
        load_wan(tiny_models / "wan", CPU, torch.float32)
    expected = ["sdxl/text_encoder", "sdxl/text_encoder_2", "sdxl/unet", "sdxl/vae", "wan/text_encoder", "wan/transformer", "wan/vae"]
    assert [line["component"] for line in lines] == expected
    assert all(line["gb_per_s"] >= 0 for line in lines)
