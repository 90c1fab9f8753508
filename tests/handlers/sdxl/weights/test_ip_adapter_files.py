"""IP-Adapter files: the choice by reference type, and files that are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from handlers.sdxl.features.ip_adapter import ADAPTERS_BY_TYPE, AdapterReference, check, find_adapter
from handlers.sdxl.nested import ReferenceType
from handlers.sdxl.weights.ip_adapter_files import (
    ImagePrompt,
    IpAdapter,
    read_image_encoder,
    read_ip_adapter,
    size_of_adapter,
    with_ip_adapters,
)
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import ModelUnavailable
from shared.weights.addons import AddonLibrary
from shared.weights.errors import WeightsError
from tests.handlers.sdxl.adapters import (
    FACE,
    PLAIN,
    PLUS,
    Sdxl,
    adapter_request,
    draw,
    image,
    plain_pipeline,
    recipe_with,
    write_all_adapters,
)
from tests.handlers.sdxl.files import write_ip_adapter

MAIN = "metadata.reference_image_url"


@pytest.fixture(scope="module")
def pipeline(tiny_models: Path) -> Any:
    return plain_pipeline(tiny_models)


@pytest.fixture(scope="module")
def addons(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all_adapters(tmp_path_factory.mktemp("addons"), pipeline)


@pytest.fixture(scope="module")
def recipe(tiny_models: Path, addons: Path) -> Sdxl:
    return recipe_with(tiny_models, addons)


@pytest.mark.parametrize(
    ("installed", "kind", "chosen"),
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
def test_the_first_installed_file_of_the_table_serves_a_type(
    tmp_path: Path, installed: tuple[str, ...], kind: ReferenceType, chosen: str
) -> None:
    (tmp_path / "ip_adapters/image_encoder").mkdir(parents=True)
    for name in (*(f"{one}.safetensors" for one in installed), "image_encoder/config.json"):
        (tmp_path / "ip_adapters" / name).touch()
    assert find_adapter(AdapterReference(MAIN, "", kind, 0.5), AddonLibrary(tmp_path))[0] == chosen


@pytest.mark.parametrize("kind", ADAPTERS_BY_TYPE)
def test_a_type_without_an_adapter_is_refused_with_the_files_that_serve_it(addons: Path, tmp_path: Path, kind: ReferenceType) -> None:
    shutil.copytree(addons / "ip_adapters", tmp_path / "ip_adapters")
    for name in ADAPTERS_BY_TYPE[kind]:
        (tmp_path / f"ip_adapters/{name}.safetensors").unlink(missing_ok=True)
    other = "style" if kind == "character" else "character"
    refused = rf"type`: no IP-Adapter for '{kind}' is installed; .*{r'.*'.join(f'{name}.safetensors' for name in ADAPTERS_BY_TYPE[kind])}"
    with pytest.raises(ModelUnavailable, match=rf"^`metadata\.reference_{refused}.*SDXL_REFERENCE_METHOD"):
        check(adapter_request(type=kind), AddonLibrary(tmp_path))
    with pytest.raises(ModelUnavailable, match=rf"^`config\.references\[1\]\.{refused}") as caught:
        check(adapter_request({"type": other}, {"type": kind}, main=None), AddonLibrary(tmp_path))
    assert "SDXL_REFERENCE_METHOD" not in caught.value.message


def test_adapters_without_an_image_encoder_are_refused(addons: Path, tmp_path: Path) -> None:
    (tmp_path / "ip_adapters").mkdir()
    shutil.copy(addons / f"ip_adapters/{PLAIN}.safetensors", tmp_path / "ip_adapters")
    with pytest.raises(ModelUnavailable, match="ip_adapters/ lacks the folder image_encoder"):
        check(adapter_request(), AddonLibrary(tmp_path))


def test_img2img_replaces_adapters_for_the_main_reference_only(tiny_models: Path, tmp_path: Path) -> None:
    img2img_recipe = recipe_with(tiny_models, tmp_path, sdxl_reference_method="img2img")
    img2img_recipe.check(adapter_request())
    with pytest.raises(ModelUnavailable, match=r"^`config\.references\[0\]\.type"):
        img2img_recipe.check(adapter_request({}))


def no_adapter(tensors: dict[str, Tensor]) -> None:
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
    [no_adapter, empty, wrong_shape, layer_missing, norm_missing, narrow, face_id, full_face, not_finite],
    ids=lambda spoil: spoil.__name__,
)
def test_a_file_that_is_not_an_adapter_for_sdxl_is_refused_and_the_unet_is_unchanged(
    pipeline: Any, addons: Path, tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None]
) -> None:
    tensors = load_file(addons / f"ip_adapters/{PLAIN}.safetensors")
    spoil(tensors)
    save_file(tensors, tmp_path / "ink.safetensors")
    before = dict(pipeline.unet.attn_processors)
    with pytest.raises(WeightsError, match=r"^The weights of ip_adapters/ink cannot be used: "):
        read_ip_adapter(tmp_path / "ink.safetensors", pipeline)
    assert pipeline.unet.attn_processors == before
    assert pipeline.unet.encoder_hid_proj is None


def test_a_damaged_adapter_is_refused(pipeline: Any, tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").write_bytes(b"\x08" * 99)
    with pytest.raises(WeightsError, match="it is damaged"):
        read_ip_adapter(tmp_path / "ink.safetensors", pipeline)


@pytest.mark.parametrize("plus", [False, True])
def test_an_adapter_for_another_image_encoder_is_refused(pipeline: Any, addons: Path, tmp_path: Path, plus: bool) -> None:
    write_ip_adapter(tmp_path / "ink.safetensors", pipeline, plus=plus, encoder_width=56)
    adapter, encoder = (
        read_ip_adapter(tmp_path / "ink.safetensors", pipeline),
        read_image_encoder(addons / "ip_adapters/image_encoder", pipeline.unet),
    )
    prompts = [ImagePrompt(adapter, image(), lambda _name: 1.0)]
    with (
        torch.inference_mode(),
        pytest.raises(ModelUnavailable, match="'ink' cannot be used: it was made for another image encoder"),
        with_ip_adapters(pipeline, encoder, prompts, guided=True),
    ):
        pass


def test_adapters_have_the_precision_of_the_unet(tiny_models: Path, addons: Path) -> None:
    half = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float16)
    adapter = read_ip_adapter(addons / f"ip_adapters/{PLUS}.safetensors", half)
    assert isinstance(adapter, IpAdapter)
    modules = [adapter.projection, *(module for pair in adapter.layers.values() for module in pair)]
    assert {tensor.dtype for module in modules for tensor in module.parameters()} == {torch.float16}
    assert not any(tensor.requires_grad for module in modules for tensor in module.parameters())
    assert size_of_adapter(adapter) == sum(tensor.nbytes for tensor in load_file(addons / f"ip_adapters/{PLUS}.safetensors").values()) // 2
    assert adapter.tokens == 16


def test_overwriting_the_file_does_not_change_a_loaded_adapter(pipeline: Any, tmp_path: Path) -> None:
    path = tmp_path / "ink.safetensors"
    write_ip_adapter(path, pipeline)
    adapter = read_ip_adapter(path, pipeline)
    before = {name: tensor.clone() for name, tensor in adapter.projection.named_parameters()}
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.projection.named_parameters())


def test_a_damaged_image_encoder_is_refused_with_the_reason(recipe: Sdxl, addons: Path, tmp_path: Path) -> None:
    from handlers.sdxl.recipe import SdxlRecipe

    assert isinstance(recipe, SdxlRecipe)
    shutil.copytree(addons / "ip_adapters", tmp_path / "ip_adapters")
    (tmp_path / "ip_adapters/image_encoder/model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelUnavailable, match=r"^The image encoder cannot be used"):
        draw(SdxlRecipe(recipe._pipeline, AddonLibrary(tmp_path)), adapter_request(), image())
