"""After any job, however it ended, the pipeline is the one before: the same objects, the same bits."""

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
from handlers.sdxl.recipe import SdxlRecipe, draw
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import Cancelled, ModelUnavailable, OutOfMemory
from shared.jobs.recipe import ImageOutput
from shared.weights.addons import AddonLibrary
from small_models.tiny.sdxl import write_refiner
from tests.doubles.fault_injection import out_of_memory_error
from tests.handlers.conftest import Watched, make, pictures, sdxl
from tests.handlers.sdxl.files import write_image_encoder, write_ip_adapter, write_lora, write_vae
from tests.handlers.sdxl.state import Same, differences, fingerprint

URL = "https://a.example/b.png"
PICTURE: dict[str, Any] = {"image": URL, "denoise_strength": 0.6}
CANNY: dict[str, Any] = {"controls": [{"kind": "canny", "image": URL, "strength": 0.7}]}
LORAS: dict[str, Any] = {"loras": [{"name": "ink"}, {"name": "oil", "scale": -0.5}]}
LOOKED_AT: dict[str, Any] = {"references": [{"image": URL, "type": "style"}, {"image": URL, "type": "composition"}]}

KINDS: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "scheduler": {"scheduler": "dpmpp_2m_sde_karras"},
    "loras": LORAS,
    "textual inversion": {"textual_inversions": ["circle"]},
    "vae": {"vae": "other"},
    "image to image": PICTURE,
    "inpainting": PICTURE | {"mask": URL},
    "control": CANNY,
    "control, image to image": CANNY | PICTURE,
    "control, inpainting": CANNY | PICTURE | {"mask": URL},
    "adapter": {"references": [{"image": URL, "type": "style"}]},
    "adapter plus": {"references": [{"image": URL, "type": "character"}]},
    "several adapters": LOOKED_AT,
    "refiner": {"refiner": {"switch_at": 0.5}},
    "guidance, preview, skipped layers, enhanced": {"guidance_scale": 6.0, "preview": True, "clip_skip": 1, "enhance": {"sharpen": 0.5}},
    "all together": LORAS
    | LOOKED_AT
    | CANNY
    | PICTURE
    | {"mask": URL, "scheduler": "heun", "textual_inversions": ["circle"], "vae": "other", "guidance_scale": 2.0, "guidance_rescale": 0.5},
}
"""Every kind of request, and one of all that go together."""


@pytest.fixture(scope="module")
def recipe(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> SdxlRecipe:
    """A worker with one of everything on its addons."""
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
    complete(recipe, {})  # at the first one, transformers hooks its encoders for good, so that they can hand out hidden states
    return recipe


def asked(config: Mapping[str, Any], **more: Any) -> SdxlRequest:
    return sdxl(**{"guidance_scale": 1.0, **config, **more})  # without guidance a step takes half the time


def pictures_for(request: SdxlRequest) -> dict[str, Image.Image]:
    generator = np.random.default_rng(1)
    return {name: Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)) for name in request.references}


def complete(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    request = asked(config)
    (made,) = make(recipe, request, references=pictures_for(request))
    assert isinstance(made, ImageOutput)


def stop_at_a_step(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    request = asked(config)
    with pytest.raises(Cancelled):
        make(recipe, request, Watched(stop_at=2), pictures_for(request))


def stop_after_a_picture(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    """As when storage refuses a picture: whoever reads the pictures closes the generator."""
    request = asked(config)
    making = recipe.generate(request, pictures_for(request), Watched().run)
    next(making)
    making.close()


def fail_to_decode(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    request = asked(config)
    with _nothing_decodes(RuntimeError("a kernel failed")), pytest.raises(RuntimeError, match="a kernel failed"):
        make(recipe, request, references=pictures_for(request))


def run_out_of_memory(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    """With every remedy tried."""
    request = asked(config)
    with _nothing_decodes(out_of_memory_error()), pytest.raises(OutOfMemory):
        make(recipe, request, references=pictures_for(request))


def fail_to_look(recipe: SdxlRecipe, config: Mapping[str, Any]) -> None:
    """As when a file of the addons is damaged: adapters are put on when nearly all else is."""
    looked_at = [*config.get("references", []), {"image": URL, "type": "character"}]
    request = asked(config, references=looked_at)
    with _damaged(recipe, "ip_adapters/character.safetensors"), pytest.raises(ModelUnavailable, match="it is damaged"):
        make(recipe, request, references=pictures_for(request))


@contextmanager
def _damaged(recipe: SdxlRecipe, name: str) -> Iterator[None]:
    file = recipe._addons._folder / name
    file.write_bytes(b"no tensors")
    try:
        yield
    finally:
        file.unlink()


Ending = Callable[[SdxlRecipe, Mapping[str, Any]], None]
ENDINGS: tuple[Ending, ...] = (complete, stop_at_a_step, stop_after_a_picture, fail_to_decode, fail_to_look)
DECODED_DIFFERENTLY = ("plain", "vae", "inpainting", "all together")
"""What is decoded by another VAE, or changed afterwards; for all others the last remedies for memory are the same, and take their time."""


def every_end_of_every_kind() -> Iterator[Any]:
    """Of each kind two ends and of each end two kinds every day, the others in the slower run."""
    for kind in KINDS:
        for end in (*ENDINGS, *([run_out_of_memory] if kind in DECODED_DIFFERENTLY else [])):
            everyday = end in (complete, stop_at_a_step) or kind in ("plain", "all together")
            yield pytest.param(kind, end, id=f"{kind}-{end.__name__}", marks=[] if everyday else [pytest.mark.slow])


@contextmanager
def _nothing_decodes(error: Exception) -> Iterator[None]:
    def fail(module: Any, _given: Any) -> None:
        if isinstance(module, Decoder):
            raise error

    with register_module_forward_pre_hook(fail):
        yield


@pytest.fixture(scope="module")
def seen(recipe: SdxlRecipe) -> list[Mapping[str, object]]:
    """What the pipeline was at each look: the one after a job is the one before the next, for looking takes as long as a job."""
    return [fingerprint(recipe._pipeline)]


@pytest.mark.parametrize(("kind", "end"), [*every_end_of_every_kind()])
def test_the_pipeline_is_unchanged_after_a_job(recipe: SdxlRecipe, seen: list[Mapping[str, object]], kind: str, end: Ending) -> None:
    end(recipe, KINDS[kind])
    seen.append(fingerprint(recipe._pipeline))
    assert differences(seen.pop(0), seen[0]) == []


def test_the_fingerprint_detects_every_kind_of_change(recipe: SdxlRecipe) -> None:
    """What a job does while it runs: otherwise the test above could not fail."""
    before, seen = fingerprint(recipe._pipeline), {}
    for kind, config in KINDS.items():
        request = asked(config)
        with (
            torch.inference_mode(),
            configured(recipe._pipeline, request, pictures_for(request), recipe._addons, request.reference_method) as stage,
        ):
            seen[kind] = {name.partition(" ")[0] for name in differences(before, fingerprint(recipe._pipeline))}
            assert (stage.pipeline is recipe._pipeline) == (not {"image", "controls"} & set(config))
    assert seen["scheduler"] >= {"scheduler", "scheduler.config"}
    assert seen["loras"] >= {"unet.parameter", "text_encoder.parameter", "text_encoder_2.parameter"}
    assert seen["vae"] >= {"vae", "vae.parameter"}
    assert seen["adapter"] >= {"unet.attention", "unet.encoder_hid_proj", "unet.config"}
    assert all(not seen[kind] for kind in ("plain", "textual inversion", "image to image", "control", "refiner"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("loras", "vae", "all together")])
def test_every_pipeline_shares_the_tensors_of_the_loaded_one(recipe: SdxlRecipe, kind: str) -> None:
    request, own = asked(KINDS[kind]), recipe._pipeline
    networks = ("unet", "vae", "text_encoder", "text_encoder_2")

    def tensors(pipeline: Any) -> dict[str, tuple[int, torch.dtype]]:
        return {
            f"{part}.{name}": (tensor.data_ptr(), tensor.dtype)
            for part in networks
            for name, tensor in getattr(pipeline, part).named_parameters()
            if "_ip." not in name and "encoder_hid_proj" not in name
        }

    before = tensors(own)
    with torch.inference_mode(), configured(own, request, pictures_for(request), recipe._addons, request.reference_method) as stage:
        assert tensors(stage.pipeline) == before
        assert {name: Same(getattr(stage.pipeline, name)) for name in networks} == {name: Same(getattr(own, name)) for name in networks}


def test_an_adapter_used_for_two_references_is_in_memory_once(recipe: SdxlRecipe) -> None:
    request = asked(LOOKED_AT)
    with torch.inference_mode(), configured(recipe._pipeline, request, pictures_for(request), recipe._addons) as stage:
        unet = stage.pipeline.unet
        worn = [tensor for name, tensor in unet.named_parameters(remove_duplicate=False) if "_ip." in name or "encoder_hid_proj" in name]
    assert len(worn) == 2 * len({tensor.data_ptr() for tensor in worn})


def test_half_precision_jobs_do_not_change_the_precision_of_any_network(tiny_models: Path, recipe: SdxlRecipe) -> None:
    """Pipelines of the library cast the VAE, or what they are made from, to half precision."""
    half = SdxlRecipe(load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float16), AddonLibrary(recipe._addons._folder))
    complete(half, {})
    before = fingerprint(half._pipeline)
    for kind in ("image to image", "control, image to image", "control, inpainting", "several adapters"):
        complete(half, KINDS[kind])
        assert differences(before, fingerprint(half._pipeline)) == [], kind


@pytest.mark.parametrize("kind", ["inpainting", "control, inpainting", "several adapters"])
def test_images_of_batches_of_one_equal_single_image_jobs_bit_for_bit(recipe: SdxlRecipe, kind: str) -> None:
    request = asked(KINDS[kind], num_images=3)
    references = pictures_for(request)
    with torch.inference_mode(), configured(recipe._pipeline, request, references, recipe._addons, request.reference_method) as stage:
        embeddings = encode_prompts(stage.pipeline, request.weighted_prompt, request.weighted_negative_prompt, request.clip_skip)
        made = list(draw(stage, request, embeddings, 1, Watched().run))
    for picture in made:
        (alone,) = pictures(make(recipe, asked(KINDS[kind], seed=picture.seed), references=references))
        assert np.array_equal(picture.pixels, alone.pixels)


def test_a_plain_job_is_the_same_bit_for_bit_after_every_kind_of_job(recipe: SdxlRecipe) -> None:
    def plain() -> Any:
        (made,) = make(recipe, asked({}))
        assert isinstance(made, ImageOutput)
        return made.pixels

    before = plain()
    for config in KINDS.values():
        complete(recipe, config)
    assert np.array_equal(plain(), before)
