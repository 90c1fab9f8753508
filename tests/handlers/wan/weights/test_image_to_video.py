"""Image-to-video models: the modes they support, their equality with diffusers, and their refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline
from PIL import Image
from safetensors.torch import save_file

from handlers.wan.features.reference import supported_modes
from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from handlers.wan.weights.load import load_wan
from shared.errors import Cancelled, ModelUnavailable
from shared.media.images import Pixels
from shared.weights.addons import AddonLibrary
from shared.weights.errors import WeightsError
from shared.weights.folders import missing_files
from tests.handlers.conftest import RecordedRun, clip, generate, wan
from tests.handlers.wan.variants import Variant, write_variant

CPU = torch.device("cpu")
Folders = Callable[[Variant], Path]
Recipes = Callable[[Variant], WanRecipe]
URL = "https://a.example/a.png"
FIRST, LAST = (Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for seed in (1, 2))
IMAGES = {"first_frame": FIRST, "last_frame": LAST}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Folders:
    made: dict[Variant, Path] = {}

    def get(variant: Variant) -> Path:
        if variant not in made:
            made[variant] = write_variant(tmp_path_factory.mktemp("variant") / "wan", tiny_models / "wan", variant)
        return made[variant]

    return get


@pytest.fixture(scope="module")
def recipe_of(folder_of: Folders) -> Recipes:
    made: dict[Variant, WanRecipe] = {}

    def get(variant: Variant) -> WanRecipe:
        if variant not in made:
            folder = folder_of(variant)
            made[variant] = WanRecipe(load_wan(folder, CPU, torch.float32), AddonLibrary(folder.parent))
        return made[variant]

    return get


def request_with(*given: str, **config: Any) -> WanRequest:
    return wan(**{name: URL for name in given} | config)


def frames_of(recipe: WanRecipe, *given: str, recorded: RecordedRun | None = None, **config: Any) -> Pixels:
    references = {f"config.{name}": IMAGES[name] for name in given}
    return np.stack(list(clip(generate(recipe, request_with(*given, **config), recorded, references)).frames))


def diffusers_frames(folder: Path, frames: int, **images: Image.Image) -> Pixels:
    """The frames of diffusers' own pipeline."""
    pipeline = WanImageToVideoPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.image_encoder):
        if part is not None:
            part.requires_grad_(False)
    pipeline.scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=5.0
    )
    with torch.inference_mode():
        made = pipeline(
            prompt="a red circle", height=64, width=64, num_frames=frames, num_inference_steps=3, guidance_scale=6.5,
            generator=torch.Generator().manual_seed(7), output_type="np", **images,
        )  # fmt: skip
    return np.asarray((made.frames[0] * 255).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("variant", "modes"), [("start", ("start",)), ("first and last", ("both",)), ("no image encoder", ("start", "both"))], ids=str
)
def test_the_supported_modes_follow_from_the_configuration(folder_of: Folders, variant: Variant, modes: tuple[str, ...]) -> None:
    assert missing_files(folder_of(variant), "diffusers") == []
    assert supported_modes(load_wan(folder_of(variant), CPU, torch.float32)) == modes


@pytest.mark.parametrize("variant", ["start", "no image encoder"])
def test_a_clip_with_a_first_frame_equals_that_of_diffusers(folder_of: Folders, recipe_of: Recipes, variant: Variant) -> None:
    assert np.array_equal(frames_of(recipe_of(variant), "first_frame"), diffusers_frames(folder_of(variant), 9, image=FIRST))


@pytest.mark.parametrize("variant", ["first and last", "no image encoder"])
def test_a_clip_with_first_and_last_frame_equals_that_of_diffusers(folder_of: Folders, recipe_of: Recipes, variant: Variant) -> None:
    expected = diffusers_frames(folder_of(variant), 9, image=FIRST, last_image=LAST)
    assert np.array_equal(frames_of(recipe_of(variant), "first_frame", "last_frame"), expected)


def test_a_cut_clip_ends_with_the_last_image(recipe_of: Recipes) -> None:
    recipe = recipe_of("first and last")
    pipeline = recipe._pipelines.image_to_video
    given: list[torch.Tensor] = []
    hook = pipeline.vae.encoder.register_forward_pre_hook(lambda _, values: given.append(values[0].clone()))
    try:
        made = frames_of(recipe, "first_frame", "last_frame", frames=7)
    finally:
        hook.remove()
    assert len(made) == 7
    levels = ((torch.cat(given, dim=2)[0].permute(1, 2, 3, 0) / 2 + 0.5) * 255).round().byte().numpy()
    assert np.array_equal(levels[0], np.asarray(FIRST))
    assert all(np.array_equal(levels[index], np.asarray(LAST)) for index in (6, 7, 8))
    assert all((levels[index] == 128).all() for index in range(1, 6))
    assert pipeline.last_image_from is None


def test_each_image_changes_the_clip(recipe_of: Recipes) -> None:
    recipe = recipe_of("no image encoder")
    assert not np.array_equal(frames_of(recipe, "first_frame"), frames_of(recipe, "first_frame", "last_frame"))


@pytest.mark.parametrize(
    ("variant", "given"),
    [
        ("start", ()),
        ("start", ("first_frame", "last_frame")),
        ("start", ("last_frame",)),
        ("start", ("image",)),
        ("first and last", ("first_frame",)),
        ("first and last", ()),
        ("no image encoder", ("last_frame",)),
    ],
    ids=str,
)
def test_an_unsupported_mode_is_refused_with_the_supported_ones(recipe_of: Recipes, variant: Variant, given: tuple[str, ...]) -> None:
    recipe = recipe_of(variant)
    with pytest.raises(
        ModelUnavailable, match=r"^Reference mode .* is not supported by this worker\. Available: (start|both|start, both)\.$"
    ):
        recipe.check(request_with(*given))


@pytest.mark.parametrize("config", [{"kind": "image_fast"}, {"frames": 1}])
def test_single_images_are_refused(recipe_of: Recipes, config: dict[str, Any]) -> None:
    with pytest.raises(ModelUnavailable, match=r"`config\.frames` must be 2 or more"):
        recipe_of("start").check(request_with("first_frame", **config))


def test_a_reference_strength_is_refused(recipe_of: Recipes) -> None:
    with pytest.raises(ModelUnavailable, match=r"`metadata\.reference_strength` is not supported"):
        recipe_of("start").check(request_with("first_frame", strength=0.8))


def test_metadata_names_the_reference_method(recipe_of: Recipes) -> None:
    recipe, request = recipe_of("start"), request_with("first_frame")
    outputs = generate(recipe, request, references={"config.first_frame": FIRST})
    assert recipe.summarize(request, outputs).metadata["reference_method"] == "image_to_video"
    assert "conditioning_scale" not in outputs[0].metadata


def test_a_lora_for_image_layers_has_an_effect_and_is_removed(recipe_of: Recipes, folder_of: Folders) -> None:
    path = folder_of("start").parent / "loras" / "ink.safetensors"
    path.parent.mkdir(exist_ok=True)
    name = "diffusion_model.blocks.0.cross_attn.k_img"
    down, up = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((2, 48), (48, 2)))
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, path)
    recipe = recipe_of("start")
    before = frames_of(recipe, "first_frame")
    assert not np.array_equal(frames_of(recipe, "first_frame", loras=[{"name": "ink", "scale": 1.0}]), before)
    assert np.array_equal(frames_of(recipe, "first_frame"), before)


def test_a_cancelled_job_does_not_affect_later_jobs(recipe_of: Recipes) -> None:
    recipe = recipe_of("first and last")
    before = frames_of(recipe, "first_frame", "last_frame")
    with pytest.raises(Cancelled):
        frames_of(recipe, "first_frame", "last_frame", recorded=RecordedRun(stop_at=1), frames=7)
    assert np.array_equal(frames_of(recipe, "first_frame", "last_frame"), before)


@pytest.mark.parametrize("change", [{"transformer_2": ["diffusers", "WanTransformer3DModel"]}, {"expand_timesteps": True}], ids=str)
def test_later_versions_of_wan_are_refused(folder_of: Folders, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(folder_of("no image encoder"), tmp_path / "wan"))
    index = json.loads((folder / "model_index.json").read_text()) | change
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"WAN 2\.1"):
        load_wan(folder, CPU, torch.float32)
