"""Out-of-memory recovery: each fallback is tried in order, reported and undone, and decoding errors do not repeat denoising."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.sdxl.request import SdxlRequest
from shared.errors import OutOfMemory
from tests.doubles.fault_injection import raising_oom
from tests.handlers.conftest import RecordedRun, clip, generate, image_outputs, sdxl, wan

ALWAYS = 10**6


def sdxl_networks(recipe: Any) -> tuple[Any, Any]:
    return recipe._pipeline.unet, recipe._pipeline.vae


def wan_networks(recipe: Any) -> tuple[Any, Any]:
    return recipe._pipelines.text_to_video.transformer, recipe._pipelines.vae


def images(recipe: Any, recorded: RecordedRun | None = None, **config: Any) -> list[Any]:
    return [image.pixels for image in image_outputs(generate(recipe, sdxl(**config), recorded))]


def frames(recipe: Any, recorded: RecordedRun | None = None) -> list[Any]:
    return list(clip(generate(recipe, wan(), recorded)).frames)


@contextmanager
def unchanged(*networks: Any) -> Iterator[None]:
    """Asserts that the body leaves the networks unchanged."""
    before = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in networks]
    yield
    for network, state in zip(networks, before, strict=True):
        assert not getattr(network, "use_tiling", False)
        for name, tensor in network.state_dict().items():
            assert tensor.dtype == state[name].dtype
            assert torch.equal(tensor, state[name])


def test_a_batch_that_does_not_fit_is_split_and_the_images_are_the_same(sdxl_recipe: Any) -> None:
    unet, _ = sdxl_networks(sdxl_recipe)
    whole, recorded = images(sdxl_recipe, num_images=6), RecordedRun()
    with raising_oom(unet, times=ALWAYS, above=4) as calls:  # two samples per image, for guidance
        split = images(sdxl_recipe, recorded, num_images=6)
    assert set(calls.batch_sizes) == {12, 6, 2, 4}
    assert len(split) == 6
    for one, other in zip(whole, split, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert recorded.run.warnings == ["Out of memory; the batch was split."]


def test_an_image_that_is_retried_after_an_oom_error_is_the_same_bit_for_bit(sdxl_recipe: Any) -> None:
    unet, vae = sdxl_networks(sdxl_recipe)
    recorded = RecordedRun()
    (expected,) = images(sdxl_recipe)
    with unchanged(unet, vae), raising_oom(unet, times=1, after=3):
        (made,) = images(sdxl_recipe, recorded)
    assert np.array_equal(made, expected)
    assert len(recorded.run.warnings) == 1
    with raising_oom(unet, times=2), unchanged(unet, vae):
        (made,) = images(sdxl_recipe, recorded)
    assert np.array_equal(made, expected)
    assert any("text encoders" in warning for warning in recorded.run.warnings)


def test_an_image_that_cannot_be_decoded_is_decoded_in_tiles_without_denoising_again(sdxl_recipe: Any) -> None:
    unet, vae = sdxl_networks(sdxl_recipe)
    recorded = RecordedRun()
    (expected,) = images(sdxl_recipe, recorded)
    steps = len(recorded.steps)
    recorded = RecordedRun()
    with unchanged(vae), raising_oom(unet, times=0) as denoising, raising_oom(vae.decoder, times=2) as decoding:
        (made,) = images(sdxl_recipe, recorded)
    assert len(denoising.batch_sizes) == steps
    assert len(decoding.batch_sizes) == 3
    assert np.abs(made.astype(int) - expected).mean() < 1
    assert [warning.partition("; ")[2] for warning in recorded.run.warnings] == [
        "the allocator's cache was emptied.",
        "the image was decoded in tiles.",
    ]


def from_reference(recipe: Any, recorded: RecordedRun, *, mask: bool = False) -> Any:
    """An image generated from a reference, by img2img or inpainting."""
    image, url = Image.fromarray(np.random.default_rng(4).integers(0, 255, (64, 64, 3), dtype=np.uint8)), "https://a.example/b.png"
    raw = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "a red circle"}
    config = {"resolution": "64x64", "steps": 10, "seed": 7} | ({"mask": url} if mask else {})
    metadata = {"reference_image_url": url, "reference_mode": "modify"}
    request = SdxlRequest.parse({**raw, "config": config, "metadata": metadata}, job_id="j")
    (made,) = image_outputs(generate(recipe, request, recorded, references=dict.fromkeys(request.references, image)))
    return made.pixels


@pytest.mark.parametrize("mask", [False, True], ids=["img2img", "inpainting"])
def test_a_reference_that_cannot_be_encoded_is_encoded_in_tiles(sdxl_recipe: Any, mask: bool) -> None:
    _, vae = sdxl_networks(sdxl_recipe)
    expected, recorded = from_reference(sdxl_recipe, RecordedRun(), mask=mask), RecordedRun()
    with unchanged(vae), raising_oom(vae.encoder, times=2):
        made = from_reference(sdxl_recipe, recorded, mask=mask)
    assert np.abs(made.astype(int) - expected).mean() < 1
    assert [warning.partition("; ")[2] for warning in recorded.run.warnings][:2] == [
        "the allocator's cache was emptied.",
        "the reference was encoded in tiles.",
    ]


def test_a_reference_that_cannot_be_encoded_in_tiles_fails_its_job_only(sdxl_recipe: Any) -> None:
    _, vae = sdxl_networks(sdxl_recipe)
    expected = from_reference(sdxl_recipe, RecordedRun())
    with unchanged(vae), raising_oom(vae.encoder, times=ALWAYS), pytest.raises(OutOfMemory, match="after every fallback"):
        from_reference(sdxl_recipe, RecordedRun())
    assert np.array_equal(from_reference(sdxl_recipe, RecordedRun()), expected)


def test_tiled_decoding_decodes_several_tiles(sdxl_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, vae = sdxl_networks(sdxl_recipe)
    monkeypatch.setattr(vae, "tile_sample_min_size", 32)  # scaled down with the VAE
    monkeypatch.setattr(vae, "tile_latent_min_size", 4)
    with raising_oom(vae.decoder, times=2) as decoding:
        images(sdxl_recipe)
    assert len(decoding.batch_sizes) > 5


@pytest.mark.parametrize("which", [0, 1], ids=["denoiser", "decoder"])
def test_an_image_job_fails_after_the_last_fallback_and_the_next_is_unaffected(sdxl_recipe: Any, which: int) -> None:
    networks = sdxl_networks(sdxl_recipe)
    (expected,) = images(sdxl_recipe)
    failed = networks[0] if which == 0 else networks[1].decoder
    with unchanged(*networks):
        with raising_oom(failed, times=ALWAYS), pytest.raises(OutOfMemory, match="after every fallback"):
            images(sdxl_recipe)
        assert np.array_equal(images(sdxl_recipe)[0], expected)


def test_a_clip_that_is_retried_after_an_oom_error_is_the_same_bit_for_bit(wan_recipe: Any) -> None:
    transformer, vae = wan_networks(wan_recipe)
    expected = frames(wan_recipe)
    for sabotaged, after in ((transformer, 2), (vae.decoder, 0), (vae.decoder, 2)):
        recorded = RecordedRun()
        with raising_oom(sabotaged, times=1, after=after), unchanged(transformer, vae):
            made = frames(wan_recipe, recorded)
        assert np.array_equal(made, expected), "and no frame comes twice"
        assert len(recorded.run.warnings) == 1


def test_the_text_encoder_is_offloaded_for_a_clip_and_reloaded_for_the_next(wan_recipe: Any) -> None:
    transformer, vae = wan_networks(wan_recipe)
    expected, recorded = frames(wan_recipe), RecordedRun()
    with raising_oom(transformer, times=2), unchanged(transformer, vae):
        made = frames(wan_recipe, recorded)
    assert np.array_equal(made, expected)
    assert wan_recipe._offload.is_offloaded
    assert recorded.run.warnings[-1] == "Out of memory; the text encoder was offloaded to the CPU."
    clip(generate(wan_recipe, wan("a prompt that is not cached")))
    assert not wan_recipe._offload.is_offloaded


def test_a_clip_that_cannot_be_decoded_is_decoded_in_tiles_without_denoising_again(wan_recipe: Any) -> None:
    transformer, vae = wan_networks(wan_recipe)
    recorded = RecordedRun()
    expected = frames(wan_recipe, recorded)
    steps = len(recorded.steps)
    recorded = RecordedRun()
    with unchanged(vae), raising_oom(transformer, times=0) as denoising, raising_oom(vae.decoder, times=2):
        made = frames(wan_recipe, recorded)
    assert len(denoising.batch_sizes) == 2 * steps, "two for each step: guidance"
    assert len(made) == len(expected)
    assert any("tiles" in warning for warning in recorded.run.warnings)


@pytest.mark.parametrize("which", [0, 1], ids=["denoiser", "decoder"])
def test_a_clip_job_fails_after_the_last_fallback_and_the_next_is_unaffected(wan_recipe: Any, which: int) -> None:
    transformer, vae = wan_networks(wan_recipe)
    expected = frames(wan_recipe)
    with unchanged(transformer, vae):
        with (
            raising_oom(transformer if which == 0 else vae.decoder, times=ALWAYS),
            pytest.raises(OutOfMemory, match="after every fallback"),
        ):
            frames(wan_recipe)
        assert np.array_equal(frames(wan_recipe), expected)
