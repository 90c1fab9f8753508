"""Evaluates the small WAN on held-out scenes with fixed seeds: prompt adherence, reference images, and fidelity to given frames."""

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
from small_models.training.thresholds import require_at_least
from small_models.training.wan.captions import caption, caption_without_colors
from small_models.training.wan.classifier import classify_clip
from small_models.training.wan.dataset import Scene, render, render_frame, sample_scene
from small_models.training.wan.latents import GREY
from small_models.training.wan.text_encoder import ATTRIBUTES
from small_models.training.wan.vae import encode, to_clips, to_tensor

MODES: dict[str, tuple[int, ...]] = {"start": (0,), "end": (-1,), "both": (0, -1)}
"""The given frames of each mode."""

_STEPS = 20
_GUIDANCE = 3.0
_SEED = 2026
_MIN_ACCURACY = 0.85

Counts = tuple[Counter[str], int]
"""The number of correct predictions of each attribute, and the number of clips."""


@dataclass(frozen=True)
class FrameFidelity:
    """Mean absolute errors of given frames in levels of 255, and correct predictions.

    Attributes:
        clip_error: The error in generated clips.
        vae_error: The error of the VAE's reconstruction, a lower bound of the clip error.
        matches: The number of clips in which each attribute is predicted correctly.
    """

    clip_error: float
    vae_error: float
    matches: Counter[str]


def evaluate_wan(folder: Path, count: int) -> Iterator[tuple[str, str]]:
    """Runs all evaluations.

    Args:
        folder: The small WAN's folder.
        count: The number of held-out captions for text-to-video; every mode of given frames uses a quarter of them.

    Yields:
        A title, and a Markdown table.

    Raises:
        BelowThreshold: The accuracy of color, motion, or a reference's background is below its threshold.
    """
    recipe = load_recipe(folder)
    columns = {f"{frames} frames": measure_adherence(recipe, count if frames == 9 else count // 2, frames) for frames in (9, 13, 17)}
    yield "WAN, text only", _accuracy_table(columns)
    for name in ("color", "motion"):
        require_at_least(f"WAN, {name} in clips of held-out captions", _accuracy(columns, name), _MIN_ACCURACY)
    columns = {f"{frames} frames": measure_reference_adherence(recipe, count // 2, frames) for frames in (9, 17)}
    yield "WAN, reference image, captions without colors", _accuracy_table(columns, ("background", "color"))
    require_at_least("WAN, background of the reference image", _accuracy(columns, "background"), _MIN_ACCURACY)
    pipeline = load_vace_pipeline(folder)
    measured = {(mode, frames): measure_frame_fidelity(pipeline, mode, frames, count // 4) for frames in (9, 17) for mode in MODES}
    yield "WAN, given frames", _fidelity_table(measured, count // 4)


def load_recipe(folder: Path) -> Recipe[WanRequest]:
    """Loads a WAN folder as the worker does."""
    prepare_environment()
    from handlers.wan.handler import load

    return load(Settings(wan_model=folder))


def generate_clip(recipe: Recipe[WanRequest], prompt: str, *, frames: int, seed: int, image: Pixels | None = None, **config: Any) -> Pixels:
    """Generates one clip, frames × 64 × 64 × 3.

    Args:
        recipe: The worker's recipe.
        prompt: The prompt.
        frames: The number of frames.
        seed: The seed.
        image: A reference image, 64 × 64 × 3.
        config: Further fields of the request's `config`.
    """
    config = {"width": SIZE, "height": SIZE, "frames": frames, "seed": seed, "steps": _STEPS, "guidance_scale": _GUIDANCE} | config
    references = {}
    if image is not None:
        references["config.image"], config["image"] = Image.fromarray(image), "https://check.example/image.png"
    raw = {"id": "check", "user_id": "check", "type": "video_fast", "prompt": prompt, "config": config}
    request = WanRequest.parse(raw, job_id="check")
    run = JobRun("check", CancelToken(600), lambda done, total, *, text=None, preview=None: None)
    (output,) = recipe.generate(request, references, run)
    assert isinstance(output, VideoOutput)
    return np.stack(list(output.frames))


def measure_adherence(recipe: Recipe[WanRequest], count: int, frames: int) -> Counts:
    """Generates clips for held-out captions and classifies them."""
    rng = np.random.default_rng((_SEED, frames))
    matches: Counter[str] = Counter()
    for seed in range(count):
        scene = sample_scene(rng, held_out=True)
        matches += matching_attributes(generate_clip(recipe, caption(scene, rng), frames=frames, seed=seed), scene)
    return matches, count


def measure_reference_adherence(recipe: Recipe[WanRequest], count: int, frames: int) -> Counts:
    """Generates clips from images of held-out scenes with captions that name no color. The figure's position differs from the image's."""
    rng = np.random.default_rng((_SEED, frames, count))
    matches: Counter[str] = Counter()
    for seed in range(count):
        scene = sample_scene(rng, held_out=True)
        image = render_frame(scene, *rng.uniform(20, SIZE - 20, 2))
        clip = generate_clip(recipe, caption_without_colors(scene, rng), frames=frames, seed=seed, image=image)
        matches += matching_attributes(clip, scene)
    return matches, count


def matching_attributes(clip: Pixels, scene: Scene) -> Counter[str]:
    """Returns 1 for each attribute that is predicted correctly, otherwise 0."""
    prediction = classify_clip(clip)
    return Counter({name: int(getattr(prediction, name) == getattr(scene, name)) for name in ATTRIBUTES})


def load_vace_pipeline(folder: Path) -> Any:
    """Loads diffusers' VACE pipeline in float32."""
    prepare_environment()
    from diffusers import WanVACEPipeline

    pipeline = WanVACEPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate_from_frames(pipeline: Any, prompt: str, clip: Pixels, given: tuple[int, ...], *, seed: int) -> Pixels:
    """Generates a clip with diffusers' pipeline from some given frames.

    Args:
        pipeline: A `WanVACEPipeline`.
        prompt: The prompt.
        clip: Frames × height × width × 3; only the given frames are used.
        given: Their indexes.
        seed: The seed.
    """
    indexes = [index % len(clip) for index in given]
    grey = np.full_like(clip[0], GREY)
    video = [Image.fromarray(clip[index] if index in indexes else grey) for index in range(len(clip))]
    mask = [Image.new("L", (SIZE, SIZE), 0 if index in indexes else 255) for index in range(len(clip))]
    generated = pipeline(
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
    pixels: Pixels = np.round(generated * 255).astype(np.uint8)
    return pixels


def measure_frame_fidelity(pipeline: Any, mode: str, frames: int, count: int) -> FrameFidelity:
    """Generates clips from given frames of held-out clips and their captions, and compares these frames."""
    rng = np.random.default_rng((_SEED, frames, len(mode)))
    matches: Counter[str] = Counter()
    clip_errors, vae_errors = [], []
    for seed in range(count):
        scene = sample_scene(rng, held_out=True)
        clip = render(scene, frames, rng)
        result = generate_from_frames(pipeline, caption(scene, rng), clip, MODES[mode], seed=seed)
        matches += matching_attributes(result, scene)
        given = list(MODES[mode])
        clip_errors.append(_mean_error(result[given], clip[given]))
        vae_errors.append(_mean_error(_reconstruct(pipeline.vae, clip)[given], clip[given]))
    return FrameFidelity(float(np.mean(clip_errors)), float(np.mean(vae_errors)), matches)


@torch.inference_mode()
def _reconstruct(vae: Any, clip: Pixels) -> Pixels:
    reconstructed: Pixels = to_clips(vae.decode(encode(vae, to_tensor(clip[None])), return_dict=False)[0])[0]
    return reconstructed


def _mean_error(first: Pixels, second: Pixels) -> float:
    return float(np.abs(first.astype(np.float32) - second).mean())


def _accuracy(columns: dict[str, Counts], name: str) -> float:
    return sum(matches[name] for matches, _ in columns.values()) / sum(count for _, count in columns.values())


def _accuracy_table(columns: dict[str, Counts], names: Iterable[str] = ATTRIBUTES) -> str:
    rows = [(name, *(f"{matches[name]} / {count} ({matches[name] / count:.0%})" for matches, count in columns.values())) for name in names]
    return table(("attribute", *columns), rows)


def _fidelity_table(measured: dict[tuple[str, int], FrameFidelity], count: int) -> str:
    rows = [
        (mode, str(frames), f"{one.clip_error:.1f}", f"{one.vae_error:.1f}", *(f"{one.matches[name] / count:.0%}" for name in ATTRIBUTES))
        for (mode, frames), one in measured.items()
    ]
    return table(("given", "frames", "error of the clip", "error of the VAE", *ATTRIBUTES), rows)
