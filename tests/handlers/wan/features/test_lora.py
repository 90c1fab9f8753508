"""LoRAs for WAN act on clips with and without references, for one job."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from handlers.wan.features.lora import target
from handlers.wan.recipe import WanRecipe
from handlers.wan.weights.load import WanPipelines, load_wan
from shared.errors import Cancelled, ModelUnavailable
from shared.media.images import Pixels
from shared.models.lora_files import read_lora
from shared.models.loras import merged
from shared.weights.addons import Shelf
from tests.handlers.conftest import Watched, clip, make, wan

RANK = 4
Spelling = Literal["original", "kohya", "peft"]
NAMES = {"attn1": "self_attn", "attn2": "cross_attn", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"} | {
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}


def write_lora(path: Path, transformer: Any, spelling: Spelling, *, seed: int = 0) -> None:
    """Writes a LoRA with random factors for all blocks of a transformer."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in transformer.named_modules():
        if not (isinstance(module, nn.Linear) and name.startswith("blocks.")):
            continue
        original = name
        for ours, theirs in NAMES.items():
            original = original.replace(ours, theirs)
        down, up = (torch.randn(shape, generator=generator) * 0.3 for shape in ((RANK, module.in_features), (module.out_features, RANK)))
        match spelling:
            case "original":
                tensors |= {f"diffusion_model.{original}.lora_A.weight": down, f"diffusion_model.{original}.lora_B.weight": up}
            case "kohya":
                flat = f"lora_unet_{original.replace('.', '_')}"
                tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(float(RANK))}
            case "peft":
                tensors |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


@pytest.fixture(scope="module")
def pipelines(tiny_models: Path) -> WanPipelines:
    return load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def recipe(pipelines: WanPipelines, tmp_path_factory: pytest.TempPathFactory) -> WanRecipe:
    folder = tmp_path_factory.mktemp("shelf")
    for seed, name in enumerate(("ink", "oil")):
        write_lora(folder / "loras" / f"{name}.safetensors", pipelines.text.transformer, "original", seed=seed)
    save_file({"diffusion_model.nothing.lora_A.weight": torch.zeros(1, 1)}, folder / "loras" / "foreign.safetensors")
    return WanRecipe(pipelines, Shelf(folder))


def film(recipe: WanRecipe, *named: tuple[str, float], references: dict[str, Image.Image] | None = None, **config: Any) -> Pixels:
    request = wan(loras=[{"name": name, "scale": scale} for name, scale in named], **config)
    return np.stack(list(clip(make(recipe, request, references=references)).frames))


@pytest.mark.parametrize("spelling", ["original", "kohya", "peft"])
def test_a_lora_adds_to_weights_what_the_library_adds_to_outputs(tiny_models: Path, tmp_path: Path, spelling: Spelling) -> None:
    ours, theirs = (load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32) for _ in range(2))
    path = tmp_path / "a.safetensors"
    write_lora(path, ours.text.transformer, spelling)
    theirs.text.load_lora_weights(str(path), adapter_name="a")
    theirs.text.set_adapters(["a"], [0.7])
    call: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 5, "num_inference_steps": 2, "output_type": "latent"}
    latents = {}
    with torch.inference_mode():
        latents["plain"] = ours.text("a cat", **call, generator=torch.Generator().manual_seed(1)).frames
        with merged(target(ours), [(read_lora(path, target(ours)), 0.7)]):
            latents["mine"] = ours.text("a cat", **call, generator=torch.Generator().manual_seed(1)).frames
        latents["theirs"] = theirs.text("a cat", **call, generator=torch.Generator().manual_seed(1)).frames
    assert (latents["mine"] - latents["theirs"]).abs().max() < 1e-3 * (latents["mine"] - latents["plain"]).abs().max()


def test_off_on_two_at_once_and_a_file_that_is_none_leave_the_plain_clip_as_it_was(recipe: WanRecipe) -> None:
    before = film(recipe)
    ink, both = film(recipe, ("ink", 1.0)), film(recipe, ("ink", 1.0), ("oil", 0.5))
    with pytest.raises(ModelUnavailable, match=r"config\.loras.*'foreign'.*WAN"):
        film(recipe, ("foreign", 1.0))
    assert not np.array_equal(ink, before)
    assert not np.array_equal(both, ink)
    assert np.array_equal(film(recipe, ("ink", 0.0)), before)
    assert np.array_equal(film(recipe), before)


def test_clips_with_references_have_the_lora_too(recipe: WanRecipe) -> None:
    given: dict[str, Any] = {
        "first_frame": "https://a.example/a.png",
        "references": {"config.first_frame": Image.new("RGB", (64, 64), "red")},
    }
    before = film(recipe, **given)
    assert not np.array_equal(film(recipe, ("ink", 1.0), **given), before)
    assert np.array_equal(film(recipe, **given), before)


def test_a_lora_a_reference_and_a_cache_together_leave_nothing_behind(recipe: WanRecipe) -> None:
    given: dict[str, Any] = {
        "first_frame": "https://a.example/a.png",
        "references": {"config.first_frame": Image.new("RGB", (64, 64), "red")},
    }
    plain, referred = film(recipe), film(recipe, **given)
    together = film(recipe, ("ink", 1.0), acceleration="fast", steps=12, **given)
    assert not np.array_equal(together, film(recipe, ("ink", 1.0), steps=12, **given))
    assert np.array_equal(film(recipe), plain)
    assert np.array_equal(film(recipe, **given), referred)


def test_both_views_still_share_every_tensor_afterwards(recipe: WanRecipe, pipelines: WanPipelines) -> None:
    film(recipe, ("ink", 1.0))
    assert pipelines.vace is not None
    whole = {tensor.data_ptr() for tensor in pipelines.vace.transformer.state_dict().values()}
    assert {tensor.data_ptr() for tensor in pipelines.text.transformer.state_dict().values()} < whole


def test_a_stopped_job_takes_its_lora_off(recipe: WanRecipe) -> None:
    before = film(recipe)
    with pytest.raises(Cancelled):
        make(recipe, wan(loras=[{"name": "ink"}], steps=20), Watched(stop_at=2))
    assert np.array_equal(film(recipe), before)


def test_a_lora_that_is_not_here_is_refused_before_any_work(recipe: WanRecipe) -> None:
    with pytest.raises(ModelUnavailable, match=r"config\.loras.*'pencil'.*foreign, ink, oil"):
        recipe.accept(wan(loras=[{"name": "pencil"}]))


def test_the_payload_names_loras_and_scales(recipe: WanRecipe) -> None:
    (made,) = make(recipe, wan(loras=[{"name": "ink", "scale": 0.5}]))
    assert made.metadata["loras"] == [{"name": "ink", "scale": 0.5}]
