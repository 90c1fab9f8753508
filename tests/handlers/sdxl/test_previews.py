"""Latent previews in progress updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handlers.sdxl.handler import load
from handlers.sdxl.request import SdxlRequest
from shared.jobs.recipe import Recipe
from shared.jobs.streaming.progress import Progress
from shared.media.images import Pixels
from shared.settings import Settings
from small_models.tiny.sdxl import write_refiner
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl
from tests.shared.models.test_previews import opened


def run_recorded(recipe: Recipe[SdxlRequest], **config: Any) -> tuple[RecordedRun, Pixels]:
    recorded = RecordedRun()
    return recorded, image_outputs(generate(recipe, sdxl(**config), recorded))[0].pixels


def test_every_third_step_has_a_preview_and_the_images_do_not_change(sdxl_recipe: Recipe[SdxlRequest]) -> None:
    recorded, previewed = run_recorded(sdxl_recipe, preview=True, num_images=3)
    unwatched, plain = run_recorded(sdxl_recipe, num_images=3)
    assert len(recorded.previews) == 3
    assert unwatched.previews == []
    assert recorded.steps == unwatched.steps
    assert np.array_equal(previewed, plain)


def test_a_pending_preview_is_sent_with_a_later_step() -> None:
    sent: list[dict[str, Any]] = []
    progress = Progress(sent.append, 0.01)
    progress.report(1, 9, preview="data:a")
    progress.report(2, 9)
    with progress:
        pass
    assert sent == [{"step": 2, "steps": 9, "percent": 22.2, "preview": "data:a", "seconds_left": sent[0]["seconds_left"]}]


def test_the_last_preview_resembles_the_first_image(small_models: Path) -> None:
    recipe = load(Settings(models_dir=small_models, device="cpu"))
    recorded = RecordedRun()
    request = sdxl("a red circle on a white background", preview=True, guidance_scale=2.0, steps=30, num_images=3)
    first, *_ = image_outputs(generate(recipe, request, recorded))
    previewed = [opened(recorded.previews[index]) for index in (0, -1)]
    small = np.asarray(Image.fromarray(first.pixels).resize((8, 8), Image.Resampling.BOX), np.float32)
    early, late = (np.corrcoef(one.ravel(), small.ravel())[0, 1] for one in previewed)
    assert previewed[1].shape == (8, 8, 3)
    assert late > max(early, 0.6)


def test_the_refiners_steps_have_previews(tiny_models: Path, tmp_path: Path) -> None:
    write_refiner(tmp_path / "refiner")
    recipe = load(Settings(models_dir=tmp_path, sdxl_model=tiny_models / "sdxl", device="cpu"))
    recorded, _ = run_recorded(recipe, preview=True, refiner={"switch_at": 0.3})
    assert len(recorded.previews) == 3
