"""Every job, however it ends, leaves the pipeline unchanged: the same objects with the same values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from diffusers.models.autoencoders.vae import Decoder
from PIL import Image
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_forward_pre_hook

from handlers.sdxl.pipeline import configured
from handlers.sdxl.prompts import encode_prompts
from handlers.sdxl.recipe import SdxlRecipe, generate_images
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import Cancelled, ModelUnavailable, OutOfMemory
from shared.jobs.recipe import ImageOutput
from shared.weights.addons import AddonLibrary
from small_models.tiny.sdxl import write_refiner
from tests.doubles.fault_injection import out_of_memory_error
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl
from tests.handlers.sdxl.files import write_image_encoder, write_ip_adapter, write_lora, write_vae
from tests.handlers.sdxl.state import Same, differences, fingerprint

URL = "https://a.example/b.png"
IMG2IMG: dict[str, Any] = {"image": URL, "denoise_strength": 0.6}
CANNY: dict[str, Any] = {"controls": [{"kind": "canny", "image": URL, "strength": 0.7}]}
LORAS: dict[str, Any] = {"loras": [{"name": "ink"}, {"name": "oil", "scale": -0.5}]}
SEVERAL_ADAPTERS: dict[str, Any] = {"references": [{"image": URL, "type": "style"}, {"image": URL, "type": "composition"}]}

KINDS: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "scheduler": {"scheduler": "dpmpp_2m_sde_karras"},
    "loras": LORAS,
    "textual inversion": {"textual_inversions": ["circle"]},
    "vae": {"vae": "other"},
    "img2img": IMG2IMG,
    "inpainting": IMG2IMG | {"mask": URL},
    "control": CANNY,
    "control, img2img": CANNY | IMG2IMG,
    "control, inpainting": CANNY | IMG2IMG | {"mask": URL},
    "adapter": {"references": [{"image": URL, "type": "style"}]},
    "adapter plus": {"references": [{"image": URL, "type": "character"}]},
    "several adapters": SEVERAL_ADAPTERS,
    "refiner": {"refiner": {"switch_at": 0.5}},
    "step cache": {"acceleration": "deepcache"},
    "step cache, refiner": {"acceleration": "deepcache_shallow", "refiner": {"switch_at": 0.5}},
    "guidance, preview, clip skip, enhancement": {"guidance_scale": 6.0, "preview": True, "clip_skip": 1, "enhance": {"sharpen": 0.5}},
    "all together": LORAS
    | SEVERAL_ADAPTERS
    | CANNY
    | IMG2IMG
    | {"mask": URL, "scheduler": "heun", "textual_inversions": ["circle"], "vae": "other", "guidance_scale": 2.0, "guidance_rescale": 0.5}
    | {"acceleration": "deepcache_shallow"},
}
"""Every feature, common combinations, and all features that can be combined."""


@pytest.fixture(scope="module")
def recipe(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> SdxlRecipe:
    """A recipe with one add-on of every kind."""
    addons, pipeline = tmp_path_factory.mktemp("addons"), load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)
    for seed, name in enumerate(("ink", "oil")):
        write_lora(addons / f"loras/{name}.safetensors", pipeline, "kohya", seed=seed, size=0.05)
    (addons / "textual_inversions").mkdir()
    vectors = {"clip_l": torch.ones(2, 32), "clip_g": torch.ones(2, 48)}
    save_file(vectors, addons / "textual_inversions/circle.safetensors")
    write_vae(addons / "vaes/other")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        ControlNetModel.from_unet(pipeline.unet).save_pretrained(addons / "controlnets/canny")
        write_image_encoder(addons / "ip_adapters/image_encoder")
        write_refiner(addons / "refiner")
    write_ip_adapter(addons / "ip_adapters/ip-adapter_sdxl_vit-h.safetensors", pipeline)
    write_ip_adapter(addons / "ip_adapters/ip-adapter-plus_sdxl_vit-h.safetensors", pipeline, plus=True)
    recipe = SdxlRecipe(pipeline, AddonLibrary(addons))
    complete(recipe, {})  # the first job installs transformers' permanent hooks for hidden states
    return recipe


def request_with(config: Mapping[str, Any], **more: Any) -> SdxlRequest:
    return sdxl(**{"guidance_scale": 1.0, **config, **more})  # no guidance, which halves the time of a step


def references_for(request: SdxlRequest) -> dict[str, Image.Image]:
    generator = np.random.default_rng(1)
    return {name: Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)) for name in request.references}


def complete(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    request = request_with(config)
    (made,) = generate(recipe, request, references=references_for(request))
    assert isinstance(made, ImageOutput)


def stop_at_a_step(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    request = request_with(config)
    with pytest.raises(Cancelled):
        generate(recipe, request, RecordedRun(stop_at=2), references_for(request))


def stop_after_an_image(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    """The lifecycle closes the generator when an upload fails."""
    request = request_with(config)
    making = recipe.generate(request, references_for(request), RecordedRun().run)
    next(making)
    making.close()


def fail_to_decode(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    request = request_with(config)
    with _decoder_raising(RuntimeError("a kernel failed")), pytest.raises(RuntimeError, match="a kernel failed"):
        generate(recipe, request, references=references_for(request))


def run_out_of_memory(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    """After every fallback."""
    request = request_with(config)
    with _decoder_raising(out_of_memory_error()), pytest.raises(OutOfMemory):
        generate(recipe, request, references=references_for(request))


def fail_to_load_adapter(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    """A damaged adapter file is detected when nearly all other features have been applied."""
    references = [*config.get("references", []), {"image": URL, "type": "character"}]
    request = request_with(config, references=references)
    with _damaged(recipe, "ip_adapters/character.safetensors"), pytest.raises(ModelUnavailable, match="it is damaged"):
        generate(recipe, request, references=references_for(request))


@contextmanager
def _damaged(recipe: SdxlRecipe, name: str) -> Iterator[None]:
    file = recipe._addons._folders[0] / name
    file.write_bytes(b"no tensors")
    try:
        yield
    finally:
        file.unlink()


Ending = Callable[[SdxlRecipe, Mapping[str, Any]], None]
ENDINGS: tuple[Ending, ...] = (complete, stop_at_a_step, stop_after_an_image, fail_to_decode, fail_to_load_adapter)
DECODED_DIFFERENTLY = ("plain", "vae", "inpainting", "all together")
"""The kinds whose decoding differs; the slow out-of-memory case is redundant for the others."""


def kinds_and_endings() -> Iterator[Any]:
    """Two endings per kind and two kinds per ending run by default, the others are slow tests."""
    for kind in KINDS:
        for end in (*ENDINGS, *([run_out_of_memory] if kind in DECODED_DIFFERENTLY else [])):
            everyday = end in (complete, stop_at_a_step) or kind in ("plain", "all together")
            yield pytest.param(kind, end, id=f"{kind}-{end.__name__}", marks=[] if everyday else [pytest.mark.slow])


@contextmanager
def _decoder_raising(error: Exception) -> Iterator[None]:
    def fail(module: Any, _given: Any) -> None:
        if isinstance(module, Decoder):
            raise error

    with register_module_forward_pre_hook(fail):
        yield


@pytest.fixture(scope="module")
def fingerprints(recipe: SdxlRecipe) -> list[Mapping[str, object]]:
    """The last fingerprint: that after one job is that before the next, because a fingerprint takes as long as a job."""
    return [fingerprint(recipe._pipeline)]


@pytest.mark.parametrize(("kind", "ending"), [*kinds_and_endings()])
def test_the_pipeline_is_unchanged_after_a_job(
    recipe: SdxlRecipe, fingerprints: list[Mapping[str, object]], kind: str, ending: Ending
) -> None:
    ending(recipe, KINDS[kind])
    fingerprints.append(fingerprint(recipe._pipeline))
    assert differences(fingerprints.pop(0), fingerprints[0]) == []


def test_the_fingerprint_detects_every_kind_of_change(recipe: SdxlRecipe) -> None:
    """Changes while a job runs are detected; otherwise the test above could not fail."""
    before, fingerprints = fingerprint(recipe._pipeline), {}
    for kind, config in KINDS.items():
        request = request_with(config)
        with (
            torch.inference_mode(),
            configured(recipe._pipeline, request, references_for(request), recipe._addons) as job,
        ):
            fingerprints[kind] = {name.partition(" ")[0] for name in differences(before, fingerprint(recipe._pipeline))}
            assert (job.pipeline is recipe._pipeline) == (not {"image", "controls"} & set(config))
    assert fingerprints["scheduler"] >= {"scheduler", "scheduler.config"}
    assert fingerprints["loras"] >= {"unet.parameter", "text_encoder.parameter", "text_encoder_2.parameter"}
    assert fingerprints["vae"] >= {"vae", "vae.parameter"}
    assert fingerprints["adapter"] >= {"unet.attention", "unet.encoder_hid_proj", "unet.config"}
    assert all(not fingerprints[kind] for kind in ("plain", "textual inversion", "img2img", "control", "refiner", "step cache"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("loras", "vae", "all together")])
def test_every_pipeline_shares_the_tensors_of_the_loaded_one(recipe: SdxlRecipe, kind: str) -> None:
    request, own = request_with(KINDS[kind]), recipe._pipeline
    networks = ("unet", "vae", "text_encoder", "text_encoder_2")

    def tensors(pipeline: Any) -> dict[str, tuple[int, torch.dtype]]:
        return {
            f"{part}.{name}": (tensor.data_ptr(), tensor.dtype)
            for part in networks
            for name, tensor in getattr(pipeline, part).named_parameters()
            if "_ip." not in name and "encoder_hid_proj" not in name
        }

    before = tensors(own)
    with torch.inference_mode(), configured(own, request, references_for(request), recipe._addons) as job:
        assert tensors(job.pipeline) == before
        assert {name: Same(getattr(job.pipeline, name)) for name in networks} == {name: Same(getattr(own, name)) for name in networks}


def test_an_adapter_used_for_two_references_is_in_memory_once(recipe: SdxlRecipe) -> None:
    request = request_with(SEVERAL_ADAPTERS)
    with torch.inference_mode(), configured(recipe._pipeline, request, references_for(request), recipe._addons) as job:
        unet = job.pipeline.unet
        adapter_tensors = [
            tensor for name, tensor in unet.named_parameters(remove_duplicate=False) if "_ip." in name or "encoder_hid_proj" in name
        ]
    assert len(adapter_tensors) == 2 * len({tensor.data_ptr() for tensor in adapter_tensors})


def test_half_precision_jobs_do_not_change_the_precision_of_any_network(tiny_models: Path, recipe: SdxlRecipe) -> None:
    """diffusers' pipelines cast the VAE, or the components they are built from, to half precision."""
    half = SdxlRecipe(load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float16), AddonLibrary(recipe._addons._folders[0]))
    complete(half, {})
    before = fingerprint(half._pipeline)
    for kind in ("img2img", "control, img2img", "control, inpainting", "several adapters"):
        complete(half, KINDS[kind])
        assert differences(before, fingerprint(half._pipeline)) == [], kind


@pytest.mark.parametrize("kind", ["inpainting", "control, inpainting", "several adapters", "step cache"])
def test_images_of_batches_of_one_equal_single_image_jobs_bit_for_bit(recipe: SdxlRecipe, kind: str) -> None:
    request = request_with(KINDS[kind], num_images=3)
    references = references_for(request)
    with torch.inference_mode(), configured(recipe._pipeline, request, references, recipe._addons) as job:
        embeddings = encode_prompts(job.pipeline, request.weighted_prompt, request.weighted_negative_prompt, request.clip_skip)
        made = list(generate_images(job, request, embeddings, 1, RecordedRun().run))
    for image in made:
        (alone,) = image_outputs(generate(recipe, request_with(KINDS[kind], seed=image.seed), references=references))
        assert np.array_equal(image.pixels, alone.pixels)


def test_a_plain_job_is_the_same_bit_for_bit_after_every_kind_of_job(recipe: SdxlRecipe) -> None:
    def plain() -> Any:
        (made,) = generate(recipe, request_with({}))
        assert isinstance(made, ImageOutput)
        return made.pixels

    before = plain()
    for config in KINDS.values():
        complete(recipe, config)
    assert np.array_equal(plain(), before)
