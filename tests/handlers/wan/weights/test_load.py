"""Loading WAN from a diffusers folder, with VACE or with the text-to-video transformer alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from structlog.testing import capture_logs

from handlers.wan.weights.load import load_wan
from shared.weights.errors import WeightsError

CPU = torch.device("cpu")
Frames = NDArray[np.float32]


@pytest.fixture(scope="module")
def text_to_video(tiny_models: Path) -> Any:
    return load_wan(tiny_models / "wan", CPU, torch.float32).text_to_video


def film(pipeline: Any, prompt: str, seed: int = 1, frames: int = 9, **options: object) -> Frames:
    generator = torch.Generator().manual_seed(seed)
    size = {"width": 64, "height": 64, "num_frames": frames}
    clip: Frames = pipeline(prompt, num_inference_steps=2, **size, generator=generator, output_type="np", **options).frames[0]
    return clip


def test_clips_are_reproducible_and_depend_on_prompt_and_seed(text_to_video: Any) -> None:
    clip = film(text_to_video, "a cat")
    assert clip.shape == (9, 64, 64, 3)
    assert np.isfinite(clip).all()
    assert np.array_equal(clip, film(text_to_video, "a cat"))
    assert np.abs(clip - film(text_to_video, "a cat", seed=2)).mean() > 0.01
    assert np.abs(clip - film(text_to_video, "a dog in the garden")).mean() > 0.001
    assert np.abs(clip[0] - clip[-1]).mean() > 0.01


def test_a_single_frame_can_be_generated(text_to_video: Any) -> None:
    assert film(text_to_video, "a cat", frames=1).shape == (1, 64, 64, 3)


def test_the_vae_is_loaded_in_float32_for_a_bfloat16_transformer(tiny_models: Path) -> None:
    half = load_wan(tiny_models / "wan", CPU, torch.bfloat16).text_to_video
    assert (half.transformer.dtype, half.text_encoder.dtype, half.vae.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert isinstance(half.vae, AutoencoderKLWan)


def test_the_text_to_video_transformer_shares_the_memory_of_vace(tiny_models: Path) -> None:
    wan = load_wan(tiny_models / "wan", CPU, torch.float32)
    assert wan.vace is not None
    vace = {tensor.data_ptr() for tensor in wan.vace.transformer.state_dict().values()}
    assert {tensor.data_ptr() for tensor in wan.text_to_video.transformer.state_dict().values()} < vace
    assert not any(tensor.is_meta for tensor in wan.text_to_video.transformer.buffers())


def test_text_to_video_equals_vace_without_conditioning_bit_for_bit(tiny_models: Path) -> None:
    wan = load_wan(tiny_models / "wan", CPU, torch.float32)
    assert np.array_equal(film(wan.text_to_video, "a cat"), film(wan.vace, "a cat", conditioning_scale=0.0))
    assert not np.array_equal(film(wan.text_to_video, "a cat"), film(wan.vace, "a cat"))


def test_a_folder_with_a_text_to_video_transformer_has_no_vace(tiny_models: Path, tmp_path: Path, text_to_video: Any) -> None:
    folder = Path(shutil.copytree(tiny_models / "wan", tmp_path / "wan"))
    shutil.rmtree(folder / "transformer")
    text_to_video.transformer.save_pretrained(folder / "transformer", max_shard_size="300KB")
    plain = load_wan(folder, CPU, torch.float32)
    assert plain.vace is None
    assert np.array_equal(film(plain.text_to_video, "a cat"), film(text_to_video, "a cat"))


def test_the_folder_of_another_model_is_refused(tiny_models: Path) -> None:
    with pytest.raises(WeightsError):
        load_wan(tiny_models / "sdxl", CPU, torch.float32)


def test_every_network_is_logged_with_its_throughput(tiny_models: Path) -> None:
    with capture_logs() as lines:
        load_wan(tiny_models / "wan", CPU, torch.float32)
    assert [line["component"] for line in lines] == ["wan/text_encoder", "wan/transformer", "wan/vae"]
    assert all(line["gb_per_s"] >= 0 for line in lines)
