"""Measures whether the small WAN follows its captions and keeps to the frames it is given: held-out scenes, fixed seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from handlers.wan.request import WanRequest
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.recipe import JobRun, Recipe, VideoOutput
from shared.settings import Settings, prepare_environment
from small_models.training.shapes import SIZE, Pixels
from small_models.training.tables import table
from small_models.training.thresholds import demand
from small_models.training.wan.captions import caption, colorless
from small_models.training.wan.classifier import classify_clip
from small_models.training.wan.dataset import Scene, draw, render, sample_scene
from small_models.training.wan.latents import GREY
from small_models.training.wan.text_encoder import ATTRIBUTES
from small_models.training.wan.vae import encode, to_clips, to_tensor

MODES: dict[str, tuple[int, ...]] = {"start": (0,), "end": (-1,), "both": (0, -1)}
"""Which frames are given in each."""

_STEPS = 20
_GUIDANCE = 3.0
_SEED = 2026
_LEAST = 0.85


@dataclass(frozen=True)
class Kept:
    """How near clips come to the frames that were given, as mean absolute errors in levels of 255.

    Attributes:
        made: Of the clips that were made.
        coded: Of clips that only went through the VAE: no clip can be nearer.
        right: How many show each attribute as their captions say.
    """

    made: float
    coded: float
    right: Counter[str]


def wan_tables(folder: Path, count: int) -> Iterator[tuple[str, str]]:
    """Measures everything.

    Args:
        folder: The small WAN's folder.
        count: How many held-out captions for text alone; with frames given a quarter of them for each mode.

    Yields:
        A title, and a table in Markdown.

    Raises:
        Missed: Too few clips have the right color or motion, or the background of a picture that they were given.
    """
    recipe = load_recipe(folder)
    columns = {f"{frames} frames": follow(recipe, count if frames == 9 else count // 2, frames) for frames in (9, 13, 17)}
    yield "WAN, text alone", _shares(columns)
    for name in ("color", "motion"):
        demand(f"WAN, {name} right in clips of held-out captions", _share(columns, name), _LEAST)
    pictured = {f"{frames} frames": resemble(recipe, count // 2, frames) for frames in (9, 17)}
    yield "WAN, a picture to resemble, captions without colors", _shares(pictured, ("background", "color"))
    demand("WAN, background right in clips that resemble a picture", _share(pictured, "background"), _LEAST)
    pipeline = load_vace_pipeline(folder)
    kept = {(mode, frames): keep(pipeline, mode, frames, count // 4) for frames in (9, 17) for mode in MODES}
    yield "WAN, frames given", _errors(kept, count // 4)


def load_recipe(folder: Path) -> Recipe[WanRequest]:
    """Loads a small WAN as the worker does."""
    prepare_environment()
    from handlers.wan.handler import load

    return load(Settings(wan_model=folder))


def generate_clip(
    recipe: Recipe[WanRequest], prompt: str, *, frames: int, seed: int, picture: Pixels | None = None, **config: Any
) -> Pixels:
    """Has the recipe make one clip, frames × 64 × 64 × 3.

    Args:
        recipe: The worker's recipe.
        prompt: What is to be seen.
        frames: How many.
        seed: Where the noise starts.
        picture: One to resemble, 64 × 64 × 3.
        config: Other fields of the request's `config`.
    """
    given = {"width": SIZE, "height": SIZE, "frames": frames, "seed": seed, "steps": _STEPS, "guidance_scale": _GUIDANCE} | config
    references = {}
    if picture is not None:
        references["config.image"], given["image"] = Image.fromarray(picture), "https://check.example/picture.png"
    raw = {"id": "check", "user_id": "check", "type": "video_fast", "prompt": prompt, "config": given}
    request = WanRequest.parse(raw, job_id="check")
    (output,) = recipe.generate(
        request, references, JobRun("check", CancelToken(600), lambda done, total, *, text=None, preview=None: None)
    )
    assert isinstance(output, VideoOutput)
    return np.stack(list(output.frames))


def follow(recipe: Recipe[WanRequest], count: int, frames: int) -> tuple[Counter[str], int]:
    """Makes clips of held-out captions and reads them.

    Returns:
        How often each attribute is right, and out of how many.
    """
    rng = np.random.default_rng((_SEED, frames))
    right: Counter[str] = Counter()
    for seed in range(count):
        scene = sample_scene(rng, held_out=True)
        right += compare(generate_clip(recipe, caption(scene, rng), frames=frames, seed=seed), scene)
    return right, count


def resemble(recipe: Recipe[WanRequest], count: int, frames: int) -> tuple[Counter[str], int]:
    """Gives pictures of held-out scenes, with captions that name no color, and reads the clips. The figure stands elsewhere in them.

    Returns:
        How often each attribute is right, and out of how many.
    """
    rng = np.random.default_rng((_SEED, frames, count))
    right: Counter[str] = Counter()
    for seed in range(count):
        scene = sample_scene(rng, held_out=True)
        picture = draw(scene, *rng.uniform(20, SIZE - 20, 2))
        right += compare(generate_clip(recipe, colorless(scene, rng), frames=frames, seed=seed, picture=picture), scene)
    return right, count


def compare(clip: Pixels, scene: Scene) -> Counter[str]:
    """Which attributes a clip shows as its scene has them."""
    reading = classify_clip(clip)
    return Counter({name: int(getattr(reading, name) == getattr(scene, name)) for name in ATTRIBUTES})


def load_vace_pipeline(folder: Path) -> Any:
    """Loads diffusers' own pipeline, in full precision."""
    prepare_environment()
    from diffusers import WanVACEPipeline

    pipeline = WanVACEPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate_from_frames(pipeline: Any, prompt: str, clip: Pixels, given: tuple[int, ...], *, seed: int) -> Pixels:
    """Has diffusers' pipeline make a clip of which some frames are given.

    Args:
        pipeline: A `WanVACEPipeline`.
        prompt: What is to be seen.
        clip: Frames × height × width × 3; only the given frames are used.
        given: Their numbers.
        seed: Where the noise starts.
    """
    numbers = [number % len(clip) for number in given]
    grey = np.full_like(clip[0], GREY)
    video = [Image.fromarray(clip[at] if at in numbers else grey) for at in range(len(clip))]
    mask = [Image.new("L", (SIZE, SIZE), 0 if at in numbers else 255) for at in range(len(clip))]
    made = pipeline(
        prompt=prompt,
        video=video,
        mask=mask,
        height=SIZE,
        width=SIZE,
        num_frames=len(clip),
        num_inference_steps=_STEPS,
        guidance_scale=_GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="np",
    ).frames[0]
    pixels: Pixels = np.round(made * 255).astype(np.uint8)
    return pixels


def keep(pipeline: Any, mode: str, frames: int, count: int) -> Kept:
    """Gives frames of held-out clips, with their captions, and measures how near the clips made come to them."""
    rng = np.random.default_rng((_SEED, frames, len(mode)))
    right: Counter[str] = Counter()
    made, coded = [], []
    for seed in range(count):
        scene = sample_scene(rng, held_out=True)
        clip = render(scene, frames, rng)
        result = generate_from_frames(pipeline, caption(scene, rng), clip, MODES[mode], seed=seed)
        right += compare(result, scene)
        given = list(MODES[mode])
        made.append(_difference(result[given], clip[given]))
        coded.append(_difference(_coded(pipeline.vae, clip)[given], clip[given]))
    return Kept(float(np.mean(made)), float(np.mean(coded)), right)


@torch.inference_mode()
def _coded(vae: Any, clip: Pixels) -> Pixels:
    coded: Pixels = to_clips(vae.decode(encode(vae, to_tensor(clip[None])), return_dict=False)[0])[0]
    return coded


def _difference(first: Pixels, second: Pixels) -> float:
    return float(np.abs(first.astype(np.float32) - second).mean())


def _share(columns: dict[str, tuple[Counter[str], int]], name: str) -> float:
    return sum(right[name] for right, _ in columns.values()) / sum(count for _, count in columns.values())


def _shares(columns: dict[str, tuple[Counter[str], int]], names: Iterable[str] = ATTRIBUTES) -> str:
    rows = [(name, *(f"{right[name]} / {count} ({right[name] / count:.0%})" for right, count in columns.values())) for name in names]
    return table(("attribute", *columns), rows)


def _errors(kept: dict[tuple[str, int], Kept], count: int) -> str:
    rows = [
        (mode, str(frames), f"{one.made:.1f}", f"{one.coded:.1f}", *(f"{one.right[name] / count:.0%}" for name in ATTRIBUTES))
        for (mode, frames), one in kept.items()
    ]
    return table(("given", "frames", "error of the clip", "of the VAE alone", *ATTRIBUTES), rows)
