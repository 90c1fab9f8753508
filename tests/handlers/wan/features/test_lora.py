"""LoRAs for WAN apply to clips with and without references, for one job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from handlers.wan.features.lora import lora_target
from handlers.wan.recipe import WanRecipe
from handlers.wan.weights.load import WanPipelines, load_wan
from shared.errors import Cancelled, ModelUnavailable
from shared.media.images import Pixels
from shared.models.lora_files import read_lora
from shared.models.loras import merged
from shared.weights.addons import AddonLibrary
from tests.handlers.conftest import RecordedRun, clip, generate, wan

RANK = 4
Format = Literal["original", "kohya", "peft"]
NAMES = {"attn1": "self_attn", "attn2": "cross_attn", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"} | {
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}


def write_lora(path: Path, transformer: Any, format_: Format, *, seed: int = 0) -> None:
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
        match format_:
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
    folder = tmp_path_factory.mktemp("addons")
    for seed, name in enumerate(("ink", "oil")):
        write_lora(folder / "loras" / f"{name}.safetensors", pipelines.text_to_video.transformer, "original", seed=seed)
    save_file({"diffusion_model.nothing.lora_A.weight": torch.zeros(1, 1)}, folder / "loras" / "foreign.safetensors")
    return WanRecipe(pipelines, AddonLibrary(folder))


def frames_of(recipe: WanRecipe, *named: tuple[str, float], references: dict[str, Image.Image] | None = None, **config: Any) -> Pixels:
    request = wan(loras=[{"name": name, "scale": scale} for name, scale in named], **config)
    return np.stack(list(clip(generate(recipe, request, references=references)).frames))


@pytest.mark.parametrize("format_", ["original", "kohya", "peft"])
def test_a_merged_lora_equals_the_librarys_unmerged_one(tiny_models: Path, tmp_path: Path, format_: Format) -> None:
    ours, theirs = (load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32) for _ in range(2))
    path = tmp_path / "a.safetensors"
    write_lora(path, ours.text_to_video.transformer, format_)
    theirs.text_to_video.load_lora_weights(str(path), adapter_name="a")
    theirs.text_to_video.set_adapters(["a"], [0.7])
    call: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 5, "num_inference_steps": 2, "output_type": "latent"}
    latents = {}
    with torch.inference_mode():
        latents["plain"] = ours.text_to_video("a cat", **call, generator=torch.Generator().manual_seed(1)).frames
        with merged(lora_target(ours), [(read_lora(path, lora_target(ours)), 0.7)]):
            latents["merged"] = ours.text_to_video("a cat", **call, generator=torch.Generator().manual_seed(1)).frames
        latents["unmerged"] = theirs.text_to_video("a cat", **call, generator=torch.Generator().manual_seed(1)).frames
    assert (latents["merged"] - latents["unmerged"]).abs().max() < 1e-3 * (latents["merged"] - latents["plain"]).abs().max()


def test_loras_do_not_affect_later_jobs(recipe: WanRecipe) -> None:
    before = frames_of(recipe)
    ink, both = frames_of(recipe, ("ink", 1.0)), frames_of(recipe, ("ink", 1.0), ("oil", 0.5))
    with pytest.raises(ModelUnavailable, match=r"LoRA 'foreign' cannot be used: .* does not belong to a LoRA for WAN"):
        frames_of(recipe, ("foreign", 1.0))
    assert not np.array_equal(ink, before)
    assert not np.array_equal(both, ink)
    assert np.array_equal(frames_of(recipe, ("ink", 0.0)), before)
    assert np.array_equal(frames_of(recipe), before)


def test_a_lora_applies_to_clips_with_references(recipe: WanRecipe) -> None:
    given: dict[str, Any] = {
        "first_frame": "https://a.example/a.png",
        "references": {"config.first_frame": Image.new("RGB", (64, 64), "red")},
    }
    before = frames_of(recipe, **given)
    assert not np.array_equal(frames_of(recipe, ("ink", 1.0), **given), before)
    assert np.array_equal(frames_of(recipe, **given), before)


def test_a_lora_combined_with_a_reference_and_a_block_cache_does_not_affect_later_jobs(recipe: WanRecipe) -> None:
    given: dict[str, Any] = {
        "first_frame": "https://a.example/a.png",
        "references": {"config.first_frame": Image.new("RGB", (64, 64), "red")},
    }
    plain, with_reference = frames_of(recipe), frames_of(recipe, **given)
    combined = frames_of(recipe, ("ink", 1.0), acceleration="fast", steps=12, **given)
    assert not np.array_equal(combined, frames_of(recipe, ("ink", 1.0), steps=12, **given))
    assert np.array_equal(frames_of(recipe), plain)
    assert np.array_equal(frames_of(recipe, **given), with_reference)


def test_the_pipelines_share_every_tensor_after_a_job_with_a_lora(recipe: WanRecipe, pipelines: WanPipelines) -> None:
    frames_of(recipe, ("ink", 1.0))
    assert pipelines.vace is not None
    whole = {tensor.data_ptr() for tensor in pipelines.vace.transformer.state_dict().values()}
    assert {tensor.data_ptr() for tensor in pipelines.text_to_video.transformer.state_dict().values()} < whole


def test_a_cancelled_job_removes_its_lora(recipe: WanRecipe) -> None:
    before = frames_of(recipe)
    with pytest.raises(Cancelled):
        generate(recipe, wan(loras=[{"name": "ink"}], steps=20), RecordedRun(stop_at=2))
    assert np.array_equal(frames_of(recipe), before)


def test_a_lora_that_is_not_installed_is_refused_before_any_work(recipe: WanRecipe) -> None:
    with pytest.raises(ModelUnavailable, match=r"LoRA 'pencil' is not installed\. Available: foreign, ink, oil"):
        recipe.check(wan(loras=[{"name": "pencil"}]))


def test_metadata_lists_the_loras_and_their_scales(recipe: WanRecipe) -> None:
    (made,) = generate(recipe, wan(loras=[{"name": "ink", "scale": 0.5}]))
    assert made.metadata["loras"] == [{"name": "ink", "scale": 0.5}]


SPEED_LORAS = re.findall(
    r"^\| ([^|]+) \| (\d+)(?: to (\d+))? \| ([\d.]+) \| `([a-z+]+)` \| ([\d.]+) \|$",
    (Path(__file__).parents[4] / "docs/handlers/wan.md").read_text("utf-8"),
    flags=re.MULTILINE,
)
"""The page's table: LoRA, least and most steps, guidance, solver, shift."""


@pytest.mark.parametrize("row", SPEED_LORAS, ids=lambda row: row[0].partition(",")[0])
def test_the_settings_of_a_speed_lora_are_accepted_and_reported(recipe: WanRecipe, row: tuple[str, ...]) -> None:
    _, least, most, guidance, solver, shift = row
    for steps in filter(None, (least, most)):
        settings: dict[str, Any] = {
            "steps": int(steps),
            "guidance_scale": float(guidance),
            "sample_solver": solver,
            "sample_shift": float(shift),
        }
        assert wan(**settings).warnings == ()
    (made,) = generate(recipe, wan(loras=[{"name": "ink"}], **settings))
    assert {name: made.metadata[name] for name in (*settings, "loras")} == settings | {"loras": [{"name": "ink", "scale": 1.0}]}


def test_the_page_has_settings_for_every_known_speed_lora() -> None:
    assert [row[0].partition(",")[0] for row in SPEED_LORAS] == ["CausVid", "lightx2v"]
