"""The small WAN's networks: what training leaves out changes nothing, and what VACE is shown is what diffusers' pipeline shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanVACEPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from PIL import Image
from torch import Tensor

from small_models.training.shapes import SIZE, Pixels
from small_models.training.wan.dataset import Scene, draw, render
from small_models.training.wan.latents import GREY, Examples, make_examples, view, view_of_nothing
from small_models.training.wan.networks import CONTROL, TEXT_WIDTH, WINDOW, make_scheduler, make_transformer, make_vae, without_vace
from small_models.training.wan.padded_attention import PaddedText, set_text_attention
from small_models.training.wan.vae import encode, flat, hold, measure_latents, scale, to_clips, to_tensor

SCENE = Scene("star", "red", "right", "yellow")


@pytest.fixture(scope="module")
def vae() -> Any:
    torch.manual_seed(0)
    made = make_vae().eval().requires_grad_(False)
    for parameter in made.parameters():  # so that frames before the present one count, as they do after training
        parameter.add_(0.05 * torch.randn_like(parameter))
    measure_latents(made, 4, 0)
    return made


@pytest.fixture(scope="module")
def transformer() -> Any:
    torch.manual_seed(0)
    made = make_transformer().eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def clip(frames: int = 9) -> Pixels:
    return render(SCENE, frames, np.random.default_rng(0))


def test_pixels_survive_the_way_to_tensors_and_back() -> None:
    assert np.array_equal(to_clips(to_tensor(clip()[None])), clip()[None])


def test_a_picture_is_the_same_without_the_frames_before_it(vae: Any) -> None:
    picture = to_tensor(clip(1)[None])
    latents = encode(vae, picture)
    decoded = vae.decode(latents, return_dict=False)[0]
    with flat(vae):
        assert torch.allclose(encode(vae, picture), latents, atol=1e-5)
        assert torch.allclose(vae.decode(latents, return_dict=False)[0], decoded, atol=1e-4)
    assert torch.equal(encode(vae, picture), latents)


def test_training_on_clips_begins_with_the_last_frame_of_each_group() -> None:
    torch.manual_seed(1)
    vae = make_vae().requires_grad_(False)
    hold(vae)
    moving = to_tensor(clip()[None])
    latents = encode(vae, moving)
    assert torch.allclose(latents[:, :, 1:2], encode(vae, moving[:, :, 4:5]), atol=1e-5)
    decoded = vae.decode(latents, return_dict=False)[0]
    assert torch.allclose(decoded[:, :, 1:5], decoded[:, :, 4:5].expand_as(decoded[:, :, 1:5]), atol=1e-5)


def test_scaled_latents_have_a_mean_of_zero_and_a_deviation_of_one(vae: Any) -> None:
    scaled = scale(vae, encode(vae, to_tensor(np.stack([render(SCENE, 9, np.random.default_rng(seed)) for seed in range(4)]))))
    assert scaled.mean().abs() < 0.5
    assert 0.3 < scaled.std() < 2


def test_padding_that_is_left_out_counts_as_much_as_all_of_it(transformer: Any) -> None:
    text = torch.cat([noise(2, 5, TEXT_WIDTH), torch.zeros(2, 1, TEXT_WIDTH)], 1)
    padded = torch.cat([text, torch.zeros(2, WINDOW - 6, TEXT_WIDTH)], 1)
    latents, control, times = noise(2, 16, 3, 8, 8), noise(2, CONTROL, 3, 8, 8), torch.tensor([300.0, 900.0])
    full = transformer(latents, times, padded, control_hidden_states=control, return_dict=False)[0]
    short = transformer(latents, times, text, control_hidden_states=control, return_dict=False)[0]
    set_text_attention(transformer, PaddedText())
    same = transformer(latents, times, text, control_hidden_states=control, return_dict=False)[0]
    set_text_attention(transformer, WanAttnProcessor())
    assert torch.allclose(same, full, atol=1e-4)
    assert not torch.allclose(short, full, atol=1e-2)


def test_the_part_without_vace_is_the_whole_with_hints_of_nothing(transformer: Any) -> None:
    plain = without_vace(transformer)
    assert plain.blocks[0].ffn.net[2].weight is transformer.blocks[0].ffn.net[2].weight
    given = (noise(1, 16, 3, 8, 8), torch.tensor([500.0]), noise(1, 7, TEXT_WIDTH))
    whole = transformer(*given, control_hidden_states=noise(1, CONTROL, 3, 8, 8), control_hidden_states_scale=torch.zeros(2))
    assert torch.equal(plain(*given).sample, whole.sample)


@pytest.fixture(scope="module")
def pipeline(vae: Any, transformer: Any) -> Any:
    return WanVACEPipeline(tokenizer=None, text_encoder=None, transformer=transformer, vae=vae, scheduler=make_scheduler())


def prepared(pipeline: Any, frames: int, **given: Any) -> Tensor:
    """What the pipeline hands to the VACE blocks."""
    names = ("video", "mask", "reference_images")
    video, mask, pictures = pipeline.preprocess_conditions(
        *(given.get(name) for name in names), 1, SIZE, SIZE, frames, torch.float32, "cpu"
    )
    latents = pipeline.prepare_video_latents(video, mask, pictures, None, "cpu")
    return torch.cat([latents, pipeline.prepare_masks(mask, pictures)], 1)


@pytest.mark.parametrize("given", [(0,), (-1,), (0, -1), (0, 1)])
def test_given_frames_are_shown_to_vace_as_diffusers_shows_them(pipeline: Any, vae: Any, given: tuple[int, ...]) -> None:
    moving = clip()
    kept = np.zeros((1, len(moving)), bool)
    kept[0, list(given)] = True
    video = [Image.fromarray(frame if keep else np.full_like(frame, GREY)) for frame, keep in zip(moving, kept[0], strict=True)]
    mask = [Image.new("L", (SIZE, SIZE), 0 if keep else 255) for keep in kept[0]]
    assert torch.allclose(view(vae, moving[None], kept), prepared(pipeline, 9, video=video, mask=mask), atol=1e-4)


def test_a_given_picture_is_shown_to_vace_as_diffusers_shows_it(pipeline: Any, vae: Any) -> None:
    picture = draw(SCENE, 30, 30)
    latents = scale(vae, encode(vae, to_tensor(picture[None, None])))
    nothing = view_of_nothing(vae, 9)
    examples = Examples(9, [SCENE], noise(1, 16, 3, 8, 8), nothing[None], latents, nothing)
    targets, views = examples.with_pictures([0])
    assert torch.equal(targets[:, :, :1], latents)
    assert torch.allclose(views, prepared(pipeline, 9, reference_images=[Image.fromarray(picture)]), atol=1e-4)


def test_nothing_is_shown_to_vace_as_diffusers_shows_it(pipeline: Any, vae: Any) -> None:
    assert torch.allclose(view_of_nothing(vae, 13)[None], prepared(pipeline, 13), atol=1e-4)


def test_examples_of_a_length_have_its_latent_frames(vae: Any) -> None:
    made = make_examples(vae, 3, 13, seed=0)
    assert made.latents.shape == (3, 16, 4, 8, 8)
    assert made.given.shape == (3, CONTROL, 4, 8, 8)
    assert made.pictures.shape == (3, 16, 1, 8, 8)
    assert made.nothing.shape == (CONTROL, 4, 8, 8)
