"""The small WAN's training shortcuts are exact, and its VACE inputs equal those of diffusers' pipeline."""

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
from small_models.training.wan.dataset import Scene, render, render_frame
from small_models.training.wan.latents import GREY, LatentClips, empty_vace_input, vace_input
from small_models.training.wan.networks import (
    CONTEXT_LENGTH,
    TEXT_WIDTH,
    VACE_CHANNELS,
    make_scheduler,
    make_transformer,
    make_vae,
    text_to_video_view,
)
from small_models.training.wan.padded_attention import PaddedTextAttnProcessor, set_cross_attention_processor
from small_models.training.wan.vae import (
    encode,
    inflate_image_vae,
    normalize_latents,
    set_latent_statistics,
    single_frame_mode,
    to_clips,
    to_tensor,
)

SCENE = Scene("star", "red", "right", "yellow")


@pytest.fixture(scope="module")
def vae() -> Any:
    torch.manual_seed(0)
    vae = make_vae().eval().requires_grad_(False)
    for parameter in vae.parameters():  # so that previous frames have an effect, as after training
        parameter.add_(0.05 * torch.randn_like(parameter))
    set_latent_statistics(vae, 4, 0)
    return vae


@pytest.fixture(scope="module")
def transformer() -> Any:
    torch.manual_seed(0)
    transformer = make_transformer().eval().requires_grad_(False)
    for parameter in transformer.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return transformer


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def clip(frames: int = 9) -> Pixels:
    return render(SCENE, frames, np.random.default_rng(0))


def test_single_frame_mode_computes_the_same_as_3d_convolutions(vae: Any) -> None:
    image = to_tensor(clip(1)[None])
    assert np.array_equal(to_clips(image), clip(1)[None])
    latents = encode(vae, image)
    decoded = vae.decode(latents, return_dict=False)[0]
    with single_frame_mode(vae):
        assert torch.allclose(encode(vae, image), latents, atol=1e-5)
        assert torch.allclose(vae.decode(latents, return_dict=False)[0], decoded, atol=1e-4)
    assert torch.equal(encode(vae, image), latents)


def test_an_inflated_vae_encodes_the_last_frame_of_each_group_and_decodes_copies_of_it() -> None:
    torch.manual_seed(1)
    vae = make_vae().requires_grad_(False)
    inflate_image_vae(vae)
    moving = to_tensor(clip()[None])
    latents = encode(vae, moving)
    assert torch.allclose(latents[:, :, 1:2], encode(vae, moving[:, :, 4:5]), atol=1e-5)
    decoded = vae.decode(latents, return_dict=False)[0]
    assert torch.allclose(decoded[:, :, 1:5], decoded[:, :, 4:5].expand_as(decoded[:, :, 1:5]), atol=1e-5)


def test_implicit_text_padding_equals_explicit_padding(transformer: Any) -> None:
    text = torch.cat([noise(2, 5, TEXT_WIDTH), torch.zeros(2, 1, TEXT_WIDTH)], 1)
    padded = torch.cat([text, torch.zeros(2, CONTEXT_LENGTH - 6, TEXT_WIDTH)], 1)
    latents, control, timesteps = noise(2, 16, 3, 8, 8), noise(2, VACE_CHANNELS, 3, 8, 8), torch.tensor([300.0, 900.0])
    explicit = transformer(latents, timesteps, padded, control_hidden_states=control, return_dict=False)[0]
    unpadded = transformer(latents, timesteps, text, control_hidden_states=control, return_dict=False)[0]
    set_cross_attention_processor(transformer, PaddedTextAttnProcessor())
    implicit = transformer(latents, timesteps, text, control_hidden_states=control, return_dict=False)[0]
    set_cross_attention_processor(transformer, WanAttnProcessor())
    assert torch.allclose(implicit, explicit, atol=1e-4)
    assert not torch.allclose(unpadded, explicit, atol=1e-2)


def test_the_text_to_video_view_equals_vace_with_hints_of_scale_zero(transformer: Any) -> None:
    view = text_to_video_view(transformer)
    assert view.blocks[0].ffn.net[2].weight is transformer.blocks[0].ffn.net[2].weight
    inputs = (noise(1, 16, 3, 8, 8), torch.tensor([500.0]), noise(1, 7, TEXT_WIDTH))
    hints = {"control_hidden_states": noise(1, VACE_CHANNELS, 3, 8, 8), "control_hidden_states_scale": torch.zeros(2)}
    assert torch.equal(view(*inputs).sample, transformer(*inputs, **hints).sample)


@pytest.fixture(scope="module")
def pipeline(vae: Any, transformer: Any) -> Any:
    return WanVACEPipeline(tokenizer=None, text_encoder=None, transformer=transformer, vae=vae, scheduler=make_scheduler())


def diffusers_vace_input(pipeline: Any, frames: int, **conditions: Any) -> Tensor:
    names = ("video", "mask", "reference_images")
    video, mask, images = pipeline.preprocess_conditions(
        *(conditions.get(name) for name in names), 1, SIZE, SIZE, frames, torch.float32, "cpu"
    )
    latents = pipeline.prepare_video_latents(video, mask, images, None, "cpu")
    return torch.cat([latents, pipeline.prepare_masks(mask, images)], 1)


def test_vace_inputs_with_given_frames_equal_those_of_diffusers(pipeline: Any, vae: Any) -> None:
    moving = clip()
    given = np.zeros((1, len(moving)), bool)
    given[0, [0, -1]] = True
    video = [Image.fromarray(frame if keep else np.full_like(frame, GREY)) for frame, keep in zip(moving, given[0], strict=True)]
    mask = [Image.new("L", (SIZE, SIZE), 0 if keep else 255) for keep in given[0]]
    assert torch.allclose(vace_input(vae, moving[None], given), diffusers_vace_input(pipeline, 9, video=video, mask=mask), atol=1e-4)


def test_vace_inputs_with_a_reference_image_and_without_conditions_equal_those_of_diffusers(pipeline: Any, vae: Any) -> None:
    image = render_frame(SCENE, 30, 30)
    latents = normalize_latents(vae, encode(vae, to_tensor(image[None, None])))
    empty = empty_vace_input(vae, 9)
    assert torch.allclose(empty[None], diffusers_vace_input(pipeline, 9), atol=1e-4)
    targets, inputs = LatentClips(9, [SCENE], noise(1, 16, 3, 8, 8), empty[None], latents, empty).with_reference_images([0])
    assert torch.equal(targets[:, :, :1], latents)
    assert torch.allclose(inputs, diffusers_vace_input(pipeline, 9, reference_images=[Image.fromarray(image)]), atol=1e-4)
