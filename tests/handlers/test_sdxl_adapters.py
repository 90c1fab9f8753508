"""References to resemble: IP-Adapters look at them, each type in its own layers, for one job."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from builder.small.detector import read
from builder.small.shapes import Figure, Scene, render
from handlers.sdxl.adapters import SERVING, Wanted, accept, serving
from handlers.sdxl.handler import load
from shared.contract.sdxl import SdxlRequest
from shared.contract.sdxl_parts import ReferenceType
from shared.errors import Cancelled, ModelUnavailable
from shared.jobs.recipe import Picture, Recipe
from shared.media.images import Pixels
from shared.models.diffusion import load_sdxl
from shared.models.ip_adapters import Glance, IpAdapter, read_eye, read_ip_adapter, size_of_adapter, with_ip_adapters
from shared.settings import Settings
from shared.weights.shelf import Shelf
from tests.handlers.conftest import Watched, make, pictures
from tests.handlers.sdxl_files import write_image_encoder, write_ip_adapter

Sdxl = Recipe[SdxlRequest]
MAIN = "metadata.reference_image_url"
URL = "https://a.example/b.png"
PROMPT = "a red circle"
PLAIN, PLUS, FACE = "ip-adapter_sdxl_vit-h", "ip-adapter-plus_sdxl_vit-h", "ip-adapter-plus-face_sdxl_vit-h"
STYLE: dict[str, Any] = {"up": {"block_0": [0.0, 0.8, 0.0]}}
LAYOUT: dict[str, Any] = {"down": {"block_2": [0.0, 0.8]}}
"""The scales for style and for layout that the documentation of diffusers gives for SDXL."""


def plain_pipeline(tiny_models: Path) -> Any:
    return load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def pipeline(tiny_models: Path) -> Any:
    return plain_pipeline(tiny_models)


@pytest.fixture(scope="module")
def shelf(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all three published adapters, and their image encoder."""
    folder = tmp_path_factory.mktemp("shelf")
    write_image_encoder(folder / "ip_adapters/image_encoder")
    for seed, name in enumerate((PLAIN, PLUS, FACE)):
        write_ip_adapter(folder / f"ip_adapters/{name}.safetensors", pipeline, plus=name != PLAIN, seed=seed)
    return folder


@pytest.fixture(scope="module")
def recipe(tiny_models: Path, shelf: Path) -> Sdxl:
    return worker(tiny_models, shelf)


def worker(tiny_models: Path, shelf: Path, **settings: Any) -> Sdxl:
    return load(Settings(sdxl_model=tiny_models / "sdxl", models_dir=shelf, device="cpu", **settings))


def picture(color: str = "red", place: str = "left", size: tuple[int, int] = (64, 64)) -> Image.Image:
    scene = Scene((Figure("circle", color, place, "large"),), "blue", striped=False)
    return Image.fromarray(render(scene, np.random.default_rng(1))).resize(size)


def asked(
    *others: dict[str, Any], prompt: str = PROMPT, main: str | None = URL, config: dict[str, Any] | None = None, **said: Any
) -> SdxlRequest:
    settings = {"resolution": "64x64", "steps": 10, "seed": 7, "guidance_scale": 2.0} | (config or {})
    full = [{"image": URL, "strength": 0.8} | other for other in others]
    metadata = {f"reference_{name}": value for name, value in ({"image_url": main, "strength": 0.8} | said).items()}
    raw = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": prompt, "negative_prompt": "", "metadata": metadata}
    return SdxlRequest.parse(raw | {"config": settings | {"references": full}}, job_id="j")


def draw(recipe: Sdxl, request: SdxlRequest, *given: Image.Image, watched: Watched | None = None) -> list[Picture]:
    """The pictures of a job whose references are given, in the order of their fields."""
    return pictures(make(recipe, request, watched, dict(zip(request.references, given, strict=True))))


def pixels(recipe: Sdxl, request: SdxlRequest, *given: Image.Image) -> Pixels:
    return draw(recipe, request, *given)[0].pixels


@contextmanager
def watching() -> Iterator[list[tuple[int, ...]]]:
    """What image encoders are given, by its shape."""
    glances: list[tuple[int, ...]] = []

    def note(module: Any, given: tuple[Any, ...]) -> None:
        if isinstance(module, CLIPVisionModelWithProjection):
            glances.append(tuple(given[0].shape))

    with register_module_forward_pre_hook(note):
        yield glances


@pytest.fixture(scope="module")
def adapted(tiny_models: Path, shelf: Path) -> Callable[..., Any]:
    """What a user of diffusers would have: the pipeline with adapters loaded from their files, by name."""

    @lru_cache
    def make_it(*names: str) -> Any:
        made = plain_pipeline(tiny_models)
        size = {"height": 32, "width": 32}
        made.register_modules(feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size))
        files = [f"{name}.safetensors" for name in names]
        made.load_ip_adapter(str(shelf / "ip_adapters"), subfolder="", weight_name=files, image_encoder_folder="image_encoder")
        made.unet.requires_grad_(False)
        made.vae.enable_slicing()
        return made

    return make_it


def expected(made: Any, scale: Any, looked_at: Any, count: int = 1, **call: Any) -> list[Pixels]:
    made.set_ip_adapter_scale(scale)
    noise = [torch.Generator().manual_seed(7 + index) for index in range(count)]
    size = {} if "image" in call else {"width": 64, "height": 64}
    with torch.inference_mode():
        drawn = made(
            PROMPT,
            negative_prompt="",
            num_inference_steps=10,
            num_images_per_prompt=count,
            generator=noise,
            ip_adapter_image=looked_at,
            output_type="np",
            **{"guidance_scale": 2.0} | size | call,
        ).images
    return [(one * 255).round().astype(np.uint8) for one in drawn]


@pytest.mark.parametrize(("count", "guidance"), [(1, 2.0), (3, 2.0), (1, 1.0)])
@pytest.mark.parametrize(("kind", "name", "scale"), [("style", PLAIN, STYLE), ("composition", PLAIN, LAYOUT), ("character", FACE, 0.8)])
def test_a_type_is_what_diffusers_draws_with_its_adapter_and_layers_bit_for_bit(
    recipe: Sdxl, adapted: Callable[..., Any], kind: str, name: str, scale: Any, count: int, guidance: float
) -> None:
    made = expected(adapted(name), scale, picture(), count, guidance_scale=guidance)
    drawn = draw(recipe, asked(type=kind, config={"num_images": count, "guidance_scale": guidance}), picture())
    assert len(drawn) == count
    assert all(np.array_equal(one.pixels, other) for one, other in zip(drawn, made, strict=True))


def test_types_differ_from_each_other_and_from_no_reference(recipe: Sdxl) -> None:
    drawn = [pixels(recipe, asked(type=kind), picture()) for kind in SERVING] + [pixels(recipe, asked(main=None))]
    assert len({one.tobytes() for one in drawn}) == len(drawn)


def test_style_of_one_and_composition_of_another_are_two_adapters_at_once_bit_for_bit(recipe: Sdxl, adapted: Callable[..., Any]) -> None:
    one, other = picture("red", "left"), picture("green", "top")
    (made,) = expected(adapted(PLAIN, PLAIN, FACE), [STYLE, LAYOUT, 0.4], [one, other, one])
    alone = asked({"type": "style"}, {"type": "composition"}, {"type": "character", "strength": 0.4}, main=None)
    assert np.array_equal(pixels(recipe, alone, one, other, one), made)
    beside = asked({"type": "composition"}, {"type": "character", "strength": 0.4}, type="style")
    assert np.array_equal(pixels(recipe, beside, one, other, one), made)


def test_references_are_looked_at_also_where_another_picture_is_started_from(recipe: Sdxl, adapted: Callable[..., Any]) -> None:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    seeing = StableDiffusionXLImg2ImgPipeline(**adapted(PLAIN).components)
    (made,) = expected(seeing, STYLE, picture("green"), image=picture(), strength=0.6)
    request = asked({"type": "style"}, config={"denoise_strength": 0.6})
    assert np.array_equal(pixels(recipe, request, picture(), picture("green")), made)


@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_strength_counts(recipe: Sdxl, strength: float) -> None:
    assert not np.array_equal(
        pixels(recipe, asked(type="character", strength=strength), picture()), pixels(recipe, asked(type="character"), picture())
    )


def test_at_strength_zero_the_picture_is_the_plain_one_and_a_warning_says_why(recipe: Sdxl) -> None:
    request = asked({"strength": 0.0}, type="character", strength=0.0)
    with watching() as glances:
        (drawn,) = draw(recipe, request, picture(), picture())
    assert glances == []
    assert np.array_equal(drawn.pixels, pixels(recipe, asked(main=None)))
    said = recipe.summarize(request, [drawn])
    assert said.warnings == [
        "metadata.reference_strength: at 0 the reference is not looked at",
        "config.references[0].strength: at 0 the reference is not looked at",
    ]
    assert (said.metadata["reference_method"], said.metadata["reference_strength"]) == ("adapter", 0.0)


def test_payloads_and_pictures_say_which_adapter_looked_at_what(recipe: Sdxl) -> None:
    request = asked({"type": "composition", "strength": 0.5}, type="style")
    (drawn,) = draw(recipe, request, picture(), picture())
    assert drawn.metadata["references"] == [
        {"type": "style", "strength": 0.8, "adapter": PLAIN},
        {"type": "composition", "strength": 0.5, "adapter": PLAIN},
    ]
    said = recipe.summarize(request, [drawn]).metadata
    assert (said["reference_mode"], said["reference_method"]) == ("style, composition", "adapter")
    assert not {"reference_strength", "denoise_strength"} & set(said)
    alone = recipe.summarize(asked(type="character"), []).metadata
    assert (alone["reference_mode"], alone["reference_method"], alone["reference_strength"]) == ("character", "adapter", 0.8)


def test_a_picture_is_looked_at_once_for_all_pictures_of_a_job(recipe: Sdxl) -> None:
    with watching() as glances:
        draw(recipe, asked(config={"num_images": 6}), picture(size=(200, 90)))
    assert glances == [(1, 3, 32, 32)]


def test_adapters_and_the_image_encoder_are_read_once_and_counted(recipe: Sdxl, shelf: Path) -> None:
    from handlers.sdxl.generate import SdxlRecipe

    assert isinstance(recipe, SdxlRecipe)
    kept = Shelf(shelf)
    fresh = SdxlRecipe(recipe._pipeline, kept)
    draw(fresh, asked(type="style"), picture())
    draw(fresh, asked(type="composition"), picture())
    encoder = sum(tensor.nbytes for tensor in load_file(shelf / "ip_adapters/image_encoder/model.safetensors").values())
    adapter = sum(tensor.nbytes for tensor in load_file(shelf / f"ip_adapters/{PLAIN}.safetensors").values())
    assert kept._kept.size == encoder + adapter


@pytest.mark.parametrize("plus", [False, True])
def test_the_next_job_is_the_plain_one_to_the_bit_also_after_a_stop(recipe: Sdxl, plus: bool) -> None:
    before, request = pixels(recipe, asked(main=None)), asked(type="character" if plus else "style")
    assert not np.array_equal(pixels(recipe, request, picture()), before)
    with pytest.raises(Cancelled):
        draw(recipe, request, picture(), watched=Watched(stop_at=3))
    assert np.array_equal(pixels(recipe, asked(main=None)), before)


@pytest.mark.parametrize(
    ("there", "kind", "taken"),
    [
        ((PLAIN, PLUS, FACE), "style", PLAIN),
        ((PLUS, FACE), "style", PLUS),
        ((PLAIN, PLUS, "style"), "style", "style"),
        ((PLAIN, PLUS), "composition", PLAIN),
        ((PLAIN, PLUS, "ip_plus_composition_sdxl"), "composition", "ip_plus_composition_sdxl"),
        ((PLAIN, "ip_plus_composition_sdxl", "composition"), "composition", "composition"),
        ((PLUS, FACE), "character", FACE),
        ((PLAIN, PLUS), "character", PLUS),
        ((PLUS, FACE, "character"), "character", "character"),
    ],
)
def test_of_the_files_that_serve_a_type_the_first_of_the_table_is_taken(
    tmp_path: Path, there: tuple[str, ...], kind: ReferenceType, taken: str
) -> None:
    (tmp_path / "ip_adapters/image_encoder").mkdir(parents=True)
    for name in (*(f"{one}.safetensors" for one in there), "image_encoder/config.json"):
        (tmp_path / "ip_adapters" / name).touch()
    assert serving(Wanted(MAIN, "", kind, 0.5), Shelf(tmp_path))[0] == taken


@pytest.mark.parametrize("kind", SERVING)
def test_a_type_without_its_adapter_is_refused_with_the_files_that_would_do(shelf: Path, tmp_path: Path, kind: ReferenceType) -> None:
    shutil.copytree(shelf / "ip_adapters", tmp_path / "ip_adapters")
    for name in SERVING[kind]:
        (tmp_path / f"ip_adapters/{name}.safetensors").unlink(missing_ok=True)
    other = "style" if kind == "character" else "character"
    refused = rf"type: this worker has no adapter for '{kind}': .*{r'.*'.join(f'{name}.safetensors' for name in SERVING[kind])}"
    with pytest.raises(ModelUnavailable, match=rf"^metadata\.reference_{refused}.*SDXL_REFERENCE_METHOD"):
        accept(asked(type=kind), Shelf(tmp_path))
    with pytest.raises(ModelUnavailable, match=rf"^config\.references\[1\]\.{refused}") as caught:
        accept(asked({"type": other}, {"type": kind}, main=None), Shelf(tmp_path))
    assert "SDXL_REFERENCE_METHOD" not in caught.value.message


def test_adapters_without_their_image_encoder_are_refused(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "ip_adapters").mkdir()
    shutil.copy(shelf / f"ip_adapters/{PLAIN}.safetensors", tmp_path / "ip_adapters")
    with pytest.raises(ModelUnavailable, match="lacks the folder image_encoder"):
        accept(asked(), Shelf(tmp_path))


def test_an_operator_without_adapters_has_the_main_reference_started_from_but_not_the_others(tiny_models: Path, tmp_path: Path) -> None:
    started = worker(tiny_models, tmp_path, sdxl_reference_method="img2img")
    started.accept(asked())
    with pytest.raises(ModelUnavailable, match=r"^config\.references\[0\]\.type"):
        started.accept(asked({}))


def junk(tensors: dict[str, Tensor]) -> None:
    tensors.clear()
    tensors["encoder.weight"] = torch.zeros(2)


def empty(tensors: dict[str, Tensor]) -> None:
    tensors.clear()


def wrong_shape(tensors: dict[str, Tensor]) -> None:
    tensors["ip_adapter.1.to_k_ip.weight"] = torch.zeros(3, 3)


def layer_missing(tensors: dict[str, Tensor]) -> None:
    del tensors["ip_adapter.3.to_v_ip.weight"]


def norm_missing(tensors: dict[str, Tensor]) -> None:
    del tensors["image_proj.norm.weight"]


def narrow(tensors: dict[str, Tensor]) -> None:
    for name, size in (("proj.weight", (40, 24)), ("proj.bias", (40,)), ("norm.weight", (10,)), ("norm.bias", (10,))):
        tensors[f"image_proj.{name}"] = torch.ones(size)


def face_id(tensors: dict[str, Tensor]) -> None:
    tensors["ip_adapter.0.to_k_lora.down.weight"] = torch.zeros(4, 32)


def full_face(tensors: dict[str, Tensor]) -> None:
    tensors["image_proj.proj.3.weight"] = tensors.pop("image_proj.proj.weight")


def not_finite(tensors: dict[str, Tensor]) -> None:
    tensors["image_proj.proj.bias"][0] = torch.nan


@pytest.mark.parametrize(
    "spoil",
    [junk, empty, wrong_shape, layer_missing, norm_missing, narrow, face_id, full_face, not_finite],
    ids=lambda spoil: spoil.__name__,
)
def test_a_file_that_is_no_adapter_for_sdxl_is_refused_and_leaves_no_trace(
    pipeline: Any, shelf: Path, tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None]
) -> None:
    tensors = load_file(shelf / f"ip_adapters/{PLAIN}.safetensors")
    spoil(tensors)
    save_file(tensors, tmp_path / "ink.safetensors")
    before = dict(pipeline.unet.attn_processors)
    with pytest.raises(ModelUnavailable, match=r"^metadata\.reference_type: the IP-Adapter 'ink' cannot be used: "):
        read_ip_adapter(tmp_path / "ink.safetensors", pipeline)
    assert pipeline.unet.attn_processors == before
    assert pipeline.unet.encoder_hid_proj is None


def test_a_damaged_file_is_refused(pipeline: Any, tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").write_bytes(b"\x08" * 99)
    with pytest.raises(ModelUnavailable, match="it is damaged"):
        read_ip_adapter(tmp_path / "ink.safetensors", pipeline)


@pytest.mark.parametrize("plus", [False, True])
def test_an_adapter_for_another_image_encoder_is_refused(pipeline: Any, shelf: Path, tmp_path: Path, plus: bool) -> None:
    write_ip_adapter(tmp_path / "ink.safetensors", pipeline, plus=plus, seen=56)
    adapter, eye = read_ip_adapter(tmp_path / "ink.safetensors", pipeline), read_eye(shelf / "ip_adapters/image_encoder", pipeline.unet)
    glances = [Glance(adapter, picture(), lambda _name: 1.0)]
    with (
        torch.inference_mode(),
        pytest.raises(ModelUnavailable, match="'ink' cannot be used: it is made for another image encoder"),
        with_ip_adapters(pipeline, eye, glances, guided=True),
    ):
        pass


def test_an_adapter_has_the_precision_of_the_unet(tiny_models: Path, shelf: Path) -> None:
    half = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float16)
    adapter = read_ip_adapter(shelf / f"ip_adapters/{PLUS}.safetensors", half)
    assert isinstance(adapter, IpAdapter)
    modules = [adapter.projection, *(module for pair in adapter.layers.values() for module in pair)]
    assert {tensor.dtype for module in modules for tensor in module.parameters()} == {torch.float16}
    assert not any(tensor.requires_grad for module in modules for tensor in module.parameters())
    assert size_of_adapter(adapter) == sum(tensor.nbytes for tensor in load_file(shelf / f"ip_adapters/{PLUS}.safetensors").values()) // 2
    assert adapter.tokens == 16


def test_the_file_of_an_adapter_that_is_in_memory_may_be_written_over(pipeline: Any, tmp_path: Path) -> None:
    path = tmp_path / "ink.safetensors"
    write_ip_adapter(path, pipeline)
    adapter = read_ip_adapter(path, pipeline)
    before = {name: tensor.clone() for name, tensor in adapter.projection.named_parameters()}
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.projection.named_parameters())


def test_a_damaged_image_encoder_is_refused_by_name(recipe: Sdxl, shelf: Path, tmp_path: Path) -> None:
    from handlers.sdxl.generate import SdxlRecipe

    assert isinstance(recipe, SdxlRecipe)
    shutil.copytree(shelf / "ip_adapters", tmp_path / "ip_adapters")
    (tmp_path / "ip_adapters/image_encoder/model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelUnavailable, match=r"^metadata\.reference_type: the image encoder 'image_encoder' cannot be used"):
        draw(SdxlRecipe(recipe._pipeline, Shelf(tmp_path)), asked(), picture())


def test_with_the_small_adapter_figures_stand_where_they_do_in_the_reference(small_models: Path, tmp_path: Path) -> None:
    shutil.copytree(small_models / "ip_adapters", tmp_path / "ip_adapters")
    (tmp_path / "ip_adapters/small.safetensors").rename(tmp_path / "ip_adapters/character.safetensors")
    trained = worker(small_models, tmp_path)
    places = ("left", "right", "top", "bottom")

    def placed(strength: float) -> int:
        request = asked(prompt=" ", type="character", strength=strength, config={"steps": 20})
        return sum(read(pixels(trained, request, picture(place=place))).place == place for place in places)

    assert placed(1.0) >= 3 > 1 >= placed(0.0)
