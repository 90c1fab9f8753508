"""What each attachment does to pictures: fixed seeds, through the plain pipelines of diffusers, read from pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from handlers.sdxl.weights.load import load_sdxl
from small_models.training.addons import ip_adapter, lora
from small_models.training.addons.controlnet import placeless
from small_models.training.addons.edges import edge_map
from small_models.training.addons.stripes import figure_mask, plain, stripe_contrast
from small_models.training.sdxl.captions import caption
from small_models.training.sdxl.generation import GUIDANCE, STEPS
from small_models.training.sdxl.prompt_adherence import ATTRIBUTES, compare
from small_models.training.shapes import Pixels, Scene, render, sample_scene
from small_models.training.tables import table
from small_models.training.thresholds import demand

SCALES = (0.0, 0.5, 1.0)
STYLE = {"up": {"block_0": [0.0, 1.0]}}
"""The IP-Adapter's scale for style alone, as usual for SDXL."""
LAYOUT = {"down": {"block_2": [1.0]}}
"""The IP-Adapter's scale for layout alone."""
_TOGETHER = 8  # pictures that are drawn at once
_SEEDS = 4  # pictures for each reference
_SEED = 2027

# What is demanded at full scale: somewhat less than two trainings gave.
_LEAST_STRIPES = 0.4
_LEAST_PLACED = 0.85  # by the ControlNet
_LEAST_ALIKE = 0.6  # by the IP-Adapter: placed as in the reference; by chance it is a fifth


def load_pipeline(sdxl: Path) -> Any:
    """Loads the small SDXL on the CPU, in float32."""
    return load_sdxl(sdxl, torch.device("cpu"), torch.float32)


def load_control(pipeline: Any, folder: Path) -> Any:
    """A pipeline of the same parts with a ControlNet, from the folder that holds it."""
    from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline

    controlnet = ControlNetModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).requires_grad_(False)
    parts = {**pipeline.components, "controlnet": controlnet}
    controlled = StableDiffusionXLControlNetPipeline(**parts, force_zeros_for_empty_prompt=False, add_watermarker=False)
    controlled.set_progress_bar_config(disable=True)
    return controlled


def load_ip_adapter(pipeline: Any, folder: Path) -> None:
    """Loads the IP-Adapter and its image encoder from the folder that holds both."""
    from small_models.training.addons.image_encoder import make_image_processor

    pipeline.register_modules(feature_extractor=make_image_processor())
    pipeline.load_ip_adapter(str(folder), subfolder="", weight_name=ip_adapter.NAME, image_encoder_folder="image_encoder")
    pipeline.unet.requires_grad_(False)


def draw_directly(pipeline: Any, prompts: list[str], seeds: list[int], **parameters: Any) -> Pixels:
    """Draws one picture for each prompt and seed, of the model's own size or that of a picture it starts from.

    Args:
        pipeline: Any SDXL pipeline.
        prompts: What to draw.
        seeds: As many as prompts.
        parameters: More of the pipeline's arguments.

    Returns:
        Count × 64 × 64 × 3.
    """
    pictures = pipeline(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **parameters,
    ).images
    return np.stack([np.asarray(picture) for picture in pictures])


def draw_many(pipeline: Any, prompts: list[str], hints: Pixels | None = None, **parameters: Any) -> Pixels:
    """Draws one picture for each prompt, with the seeds 0, 1, 2 …

    Args:
        pipeline: Any SDXL pipeline.
        prompts: What to draw.
        hints: As many pictures for the pipeline's ControlNet, count × 64 × 64 × 3.
        parameters: More of the pipeline's arguments.
    """
    pictures = []
    for start in range(0, len(prompts), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        given = parameters if hints is None else {**parameters, "image": [Image.fromarray(hint) for hint in hints[part]]}
        pictures.append(draw_directly(pipeline, prompts[part], list(range(len(prompts)))[part], **given))
    return np.concatenate(pictures)


def held_out_scenes(count: int) -> list[Scene]:
    """Scenes of one figure on a plain background that training never saw, always the same ones."""
    rng = np.random.default_rng(_SEED)
    return [plain(sample_scene(rng, held_out=True)) for _ in range(count)]


def check_lora(sdxl: Path, attachments: Path, count: int) -> str:
    """Measures the LoRA at several scales.

    Args:
        sdxl: The small SDXL's folder.
        attachments: The folder with `loras`.
        count: How many pictures at each scale.

    Returns:
        A Markdown table: how striped backgrounds are, 0 … 1, and which attributes of the captions the pictures show.
    """
    pipeline = load_pipeline(sdxl)
    pipeline.load_lora_weights(str(attachments / "loras"), weight_name=lora.NAME, adapter_name="stripes")
    scenes = held_out_scenes(count)
    rng = np.random.default_rng(_SEED)
    prompts = [caption(scene, rng) for scene in scenes]
    rows = []
    for scale in SCALES:
        pipeline.set_adapters(["stripes"], [scale])
        pictures = draw_many(pipeline, prompts)
        stripes = np.mean([stripe_contrast(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)])
        rows.append([f"{scale:g}", f"{round(float(stripes), 2) + 0.0:.2f}", *_shares(pictures, scenes)])
    demand("LoRA, stripes behind figures at full scale", float(stripes), _LEAST_STRIPES)
    return table(["scale", "stripes", *ATTRIBUTES], rows)


def check_ip_adapter(sdxl: Path, attachments: Path, count: int) -> str:
    """Measures what pictures for an empty prompt share with their reference.

    Args:
        sdxl: The small SDXL's folder.
        attachments: The folder with `ip_adapters`.
        count: How many pictures at each scale, with four seeds for each reference.

    Returns:
        A Markdown table: which of the reference's attributes the pictures show.
    """
    pipeline = load_pipeline(sdxl)
    load_ip_adapter(pipeline, attachments / "ip_adapters")
    scenes = held_out_scenes(-(-count // _SEEDS))
    rng = np.random.default_rng(_SEED)
    references = [Image.fromarray(render(scene, rng)) for scene in scenes]
    shown = [scene for scene in scenes for _ in range(_SEEDS)]
    rows = []
    for name, scale in {**{f"{scale:g}": scale for scale in SCALES}, "style block": STYLE, "layout block": LAYOUT}.items():
        pipeline.set_ip_adapter_scale(scale)
        drawn = [draw_directly(pipeline, [""] * _SEEDS, list(range(_SEEDS)), ip_adapter_image=reference) for reference in references]
        pictures = np.concatenate(drawn)
        rows.append([name, *_shares(pictures, shown)])
        if scale == 1.0:
            demand("IP-Adapter, figures placed as in the reference", _placed(pictures, shown), _LEAST_ALIKE)
    return table(["scale", *ATTRIBUTES], rows)


def check_controlnet(sdxl: Path, attachments: Path, count: int) -> str:
    """Measures whether figures are drawn where edges are.

    Args:
        sdxl: The small SDXL's folder.
        attachments: The folder with `controlnets`.
        count: How many pictures in each row.

    Returns:
        A Markdown table: which of the scene's attributes the pictures show, and how well their figures cover the scene's own (intersection
        over union, 0 … 1).
    """
    pipeline = load_control(load_pipeline(sdxl), attachments / "controlnets" / "canny")
    scenes = [_moved(scene) for scene in held_out_scenes(count)]
    rng = np.random.default_rng(_SEED)
    rendered = np.stack([render(scene, rng) for scene in scenes])
    hints = np.stack([edge_map(picture) for picture in rendered])
    prompts = [placeless(scene, rng) for scene in scenes]
    cases = [("no place", prompts, scale) for scale in SCALES] + [("empty", [""] * count, 1.0)]
    rows = []
    for name, texts, scale in cases:
        pictures = draw_many(pipeline, texts, hints, controlnet_conditioning_scale=scale)
        covered = f"{_overlap(pictures, rendered, scenes):.2f}" if all(texts) else "–"
        rows.append([name, f"{scale:g}", *_shares(pictures, scenes), covered])
        if scale == 1.0 and all(texts):
            demand("ControlNet, figures placed where the edges are", _placed(pictures, scenes), _LEAST_PLACED)
    return table(["prompt", "scale", *ATTRIBUTES, "overlap"], rows)


def _moved(scene: Scene) -> Scene:
    """The scene, its figure at the top left if it was in the middle, where figures without a place are drawn anyway."""
    (figure,) = scene.figures
    return replace(scene, figures=(replace(figure, place="top left"),)) if figure.place == "centre" else scene


def _overlap(pictures: Pixels, rendered: Pixels, scenes: list[Scene]) -> float:
    masks = [(figure_mask(one, scene), figure_mask(other, scene)) for one, other, scene in zip(pictures, rendered, scenes, strict=True)]
    return float(np.mean([(one & other).sum() / max((one | other).sum(), 1) for one, other in masks]))


def _placed(pictures: Pixels, scenes: list[Scene]) -> float:
    return float(np.mean([compare(picture, scene)["place"] for picture, scene in zip(pictures, scenes, strict=True)]))


def _shares(pictures: Pixels, scenes: list[Scene]) -> list[str]:
    right = sum((compare(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)), Counter[str]())
    return [f"{right[name] / len(scenes):.0%}" for name in ATTRIBUTES]
