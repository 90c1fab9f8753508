"""Memory that does not suffice: one remedy after the other, each named, none left behind, nothing denoised twice for the decoder's sake."""

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
from tests.handlers.conftest import Watched, clip, make, pictures, sdxl, wan

ALWAYS = 10**6


def sdxl_networks(recipe: Any) -> tuple[Any, Any]:
    return recipe._pipeline.unet, recipe._pipeline.vae


def wan_networks(recipe: Any) -> tuple[Any, Any]:
    return recipe._pipelines.text_to_video.transformer, recipe._pipelines.vae


def images(recipe: Any, watched: Watched | None = None, **config: Any) -> list[Any]:
    return [picture.pixels for picture in pictures(make(recipe, sdxl(**config), watched))]


def frames(recipe: Any, watched: Watched | None = None) -> list[Any]:
    return list(clip(make(recipe, wan(), watched)).frames)


@contextmanager
def as_it_was(*networks: Any) -> Iterator[None]:
    """Whatever happens inside, the networks are in the end what they were."""
    before = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in networks]
    yield
    for network, state in zip(networks, before, strict=True):
        assert not getattr(network, "use_tiling", False)
        for name, tensor in network.state_dict().items():
            assert tensor.dtype == state[name].dtype
            assert torch.equal(tensor, state[name])


def test_a_batch_that_does_not_fit_is_split_and_the_images_are_the_same(sdxl_recipe: Any) -> None:
    unet, _ = sdxl_networks(sdxl_recipe)
    whole, watched = images(sdxl_recipe, num_images=6), Watched()
    with raising_oom(unet, times=ALWAYS, above=4) as calls:  # two samples each: guidance
        halved = images(sdxl_recipe, watched, num_images=6)
    assert set(calls.samples) == {12, 6, 2, 4}
    assert len(halved) == 6
    for one, other in zip(whole, halved, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert watched.run.warnings == ["Memory did not suffice for so many pictures together; fewer were made at once."]


def test_an_image_that_is_retried_after_an_oom_error_is_the_same_bit_for_bit(sdxl_recipe: Any) -> None:
    unet, vae = sdxl_networks(sdxl_recipe)
    watched = Watched()
    (expected,) = images(sdxl_recipe)
    with as_it_was(unet, vae), raising_oom(unet, times=1, after=3):
        (made,) = images(sdxl_recipe, watched)
    assert np.array_equal(made, expected)
    assert len(watched.run.warnings) == 1
    with raising_oom(unet, times=2), as_it_was(unet, vae):
        (made,) = images(sdxl_recipe, watched)
    assert np.array_equal(made, expected)
    assert any("text encoders" in warning for warning in watched.run.warnings)


def test_an_image_that_cannot_be_decoded_is_decoded_in_tiles_without_denoising_again(sdxl_recipe: Any) -> None:
    unet, vae = sdxl_networks(sdxl_recipe)
    watched = Watched()
    (expected,) = images(sdxl_recipe, watched)
    steps = len(watched.steps)
    watched = Watched()
    with as_it_was(vae), raising_oom(unet, times=0) as denoising, raising_oom(vae.decoder, times=2) as decoding:
        (made,) = images(sdxl_recipe, watched)
    assert len(denoising.samples) == steps
    assert len(decoding.samples) == 3
    assert np.abs(made.astype(int) - expected).mean() < 1
    assert [warning.partition("; ")[2] for warning in watched.run.warnings] == [
        "the allocator's cache was emptied.",
        "the picture was decoded in tiles.",
    ]


def repainted(recipe: Any, watched: Watched, *, mask: bool = False) -> Any:
    """A picture made from a reference, all of it or what a mask covers."""
    picture, url = Image.fromarray(np.random.default_rng(4).integers(0, 255, (64, 64, 3), dtype=np.uint8)), "https://a.example/b.png"
    raw = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "a red circle"}
    config = {"resolution": "64x64", "steps": 10, "seed": 7} | ({"mask": url} if mask else {})
    metadata = {"reference_image_url": url, "reference_mode": "modify"}
    request = SdxlRequest.parse({**raw, "config": config, "metadata": metadata}, job_id="j")
    (made,) = pictures(make(recipe, request, watched, references=dict.fromkeys(request.references, picture)))
    return made.pixels


@pytest.mark.parametrize("mask", [False, True], ids=["the whole", "a part"])
def test_a_reference_that_cannot_be_encoded_is_encoded_in_tiles(sdxl_recipe: Any, mask: bool) -> None:
    _, vae = sdxl_networks(sdxl_recipe)
    expected, watched = repainted(sdxl_recipe, Watched(), mask=mask), Watched()
    with as_it_was(vae), raising_oom(vae.encoder, times=2):
        made = repainted(sdxl_recipe, watched, mask=mask)
    assert np.abs(made.astype(int) - expected).mean() < 1
    assert [warning.partition("; ")[2] for warning in watched.run.warnings][:2] == [
        "the allocator's cache was emptied.",
        "the reference was encoded in tiles.",
    ]


def test_a_reference_that_cannot_be_encoded_in_tiles_fails_its_job_only(sdxl_recipe: Any) -> None:
    _, vae = sdxl_networks(sdxl_recipe)
    expected = repainted(sdxl_recipe, Watched())
    with as_it_was(vae), raising_oom(vae.encoder, times=ALWAYS), pytest.raises(OutOfMemory, match="whatever was tried"):
        repainted(sdxl_recipe, Watched())
    assert np.array_equal(repainted(sdxl_recipe, Watched()), expected)


def test_tiled_decoding_decodes_several_tiles(sdxl_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, vae = sdxl_networks(sdxl_recipe)
    monkeypatch.setattr(vae, "tile_sample_min_size", 32)  # as small for this VAE as its own size is for a large one
    monkeypatch.setattr(vae, "tile_latent_min_size", 4)
    with raising_oom(vae.decoder, times=2) as decoding:
        images(sdxl_recipe)
    assert len(decoding.samples) > 5


@pytest.mark.parametrize("which", [0, 1], ids=["denoiser", "decoder"])
def test_an_image_job_fails_after_the_last_fallback_and_the_next_is_unaffected(sdxl_recipe: Any, which: int) -> None:
    networks = sdxl_networks(sdxl_recipe)
    (expected,) = images(sdxl_recipe)
    failed = networks[0] if which == 0 else networks[1].decoder
    with as_it_was(*networks):
        with raising_oom(failed, times=ALWAYS), pytest.raises(OutOfMemory, match="whatever was tried"):
            images(sdxl_recipe)
        assert np.array_equal(images(sdxl_recipe)[0], expected)


def test_a_clip_that_is_retried_after_an_oom_error_is_the_same_bit_for_bit(wan_recipe: Any) -> None:
    transformer, vae = wan_networks(wan_recipe)
    expected = frames(wan_recipe)
    for sabotaged, after in ((transformer, 2), (vae.decoder, 0), (vae.decoder, 2)):
        watched = Watched()
        with raising_oom(sabotaged, times=1, after=after), as_it_was(transformer, vae):
            made = frames(wan_recipe, watched)
        assert np.array_equal(made, expected), "and no frame comes twice"
        assert len(watched.run.warnings) == 1


def test_the_text_encoder_is_offloaded_for_a_clip_and_reloaded_for_the_next(wan_recipe: Any) -> None:
    transformer, vae = wan_networks(wan_recipe)
    expected, watched = frames(wan_recipe), Watched()
    with raising_oom(transformer, times=2), as_it_was(transformer, vae):
        made = frames(wan_recipe, watched)
    assert np.array_equal(made, expected)
    assert wan_recipe._offload.is_offloaded
    assert watched.run.warnings[-1] == "Out of memory; the text encoder was offloaded to the CPU."
    clip(make(wan_recipe, wan("a prompt that nobody has asked for yet")))
    assert not wan_recipe._offload.is_offloaded


def test_a_clip_that_cannot_be_decoded_is_decoded_in_tiles_without_denoising_again(wan_recipe: Any) -> None:
    transformer, vae = wan_networks(wan_recipe)
    watched = Watched()
    expected = frames(wan_recipe, watched)
    steps = len(watched.steps)
    watched = Watched()
    with as_it_was(vae), raising_oom(transformer, times=0) as denoising, raising_oom(vae.decoder, times=2):
        made = frames(wan_recipe, watched)
    assert len(denoising.samples) == 2 * steps, "two for each step: guidance"
    assert len(made) == len(expected)
    assert any("tiles" in warning for warning in watched.run.warnings)


@pytest.mark.parametrize("which", [0, 1], ids=["denoiser", "decoder"])
def test_a_clip_job_fails_after_the_last_fallback_and_the_next_is_unaffected(wan_recipe: Any, which: int) -> None:
    transformer, vae = wan_networks(wan_recipe)
    expected = frames(wan_recipe)
    with as_it_was(transformer, vae):
        with raising_oom(transformer if which == 0 else vae.decoder, times=ALWAYS), pytest.raises(OutOfMemory, match="whatever was tried"):
            frames(wan_recipe)
        assert np.array_equal(frames(wan_recipe), expected)
