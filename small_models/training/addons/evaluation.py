"""Evaluates the add-ons through plain diffusers pipelines: generates images from fixed seeds and classifies them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from small_models.training.addons import ip_adapter, lora
from small_models.training.addons.controlnet import caption_without_place
from small_models.training.addons.edges import edge_map
from small_models.training.addons.stripes import figure_mask, stripe_contrast, with_plain_background
from small_models.training.sdxl.captions import caption
from small_models.training.sdxl.dataset import Scene, render, sample_scene
from small_models.training.sdxl.generation import generate_images, load_pipeline
from small_models.training.sdxl.prompt_adherence import ATTRIBUTES, count_matches
from small_models.training.shapes import Pixels
from small_models.training.tables import table
from small_models.training.thresholds import require_at_least

SCALES = (0.0, 0.5, 1.0)
STYLE = {"up": {"block_0": [0.0, 1.0]}}
"""The usual SDXL block scales of an IP-Adapter for style only."""
LAYOUT = {"down": {"block_2": [1.0]}}
"""The usual SDXL block scales of an IP-Adapter for layout only."""
_BATCH = 8
_SEEDS_PER_REFERENCE = 4
_SEED = 2027

# Thresholds at full scale, slightly below the results of two training runs.
_MIN_STRIPE_CONTRAST = 0.4
_MIN_CONTROLNET_PLACE = 0.85
_MIN_IP_ADAPTER_PLACE = 0.6  # the figure is placed as in the reference; chance is a fifth


def load_controlnet_pipeline(pipeline: Any, folder: Path) -> Any:
    """Loads a ControlNet and returns a ControlNet pipeline that shares the other components."""
    from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline

    controlnet = ControlNetModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).requires_grad_(False)
    components = {**pipeline.components, "controlnet": controlnet}
    controlled = StableDiffusionXLControlNetPipeline(**components, force_zeros_for_empty_prompt=False, add_watermarker=False)
    controlled.set_progress_bar_config(disable=True)
    return controlled


def load_ip_adapter(pipeline: Any, folder: Path) -> None:
    """Loads the IP-Adapter and its image encoder from their folder into a pipeline."""
    from small_models.training.addons.image_encoder import make_image_processor

    pipeline.register_modules(feature_extractor=make_image_processor())
    pipeline.load_ip_adapter(str(folder), subfolder="", weight_name=ip_adapter.FILE_NAME, image_encoder_folder="image_encoder")
    pipeline.unet.requires_grad_(False)


def generate_in_batches(pipeline: Any, prompts: list[str], edge_maps: Pixels | None = None, **parameters: Any) -> Pixels:
    """Generates one image per prompt with the seeds 0, 1, 2 …

    Args:
        pipeline: An SDXL pipeline of diffusers.
        prompts: The prompts.
        edge_maps: As many conditioning images for a ControlNet pipeline, count × 64 × 64 × 3.
        parameters: Further arguments of the pipeline.
    """
    batches = []
    for start in range(0, len(prompts), _BATCH):
        part = slice(start, start + _BATCH)
        arguments = parameters if edge_maps is None else {**parameters, "image": [Image.fromarray(each) for each in edge_maps[part]]}
        batches.append(generate_images(pipeline, prompts[part], list(range(len(prompts)))[part], **arguments))
    return np.concatenate(batches)


def held_out_scenes(count: int) -> list[Scene]:
    """Returns held-out scenes with one figure on a plain background; the same in every run."""
    rng = np.random.default_rng(_SEED)
    return [with_plain_background(sample_scene(rng, held_out=True)) for _ in range(count)]


def evaluate_lora(sdxl: Path, addons: Path, count: int) -> str:
    """Evaluates the LoRA at several scales.

    Args:
        sdxl: The small SDXL's folder.
        addons: The folder that contains `loras`.
        count: The number of images at each scale.

    Returns:
        A Markdown table of the mean stripe contrast, 0 … 1, and the prompt adherence.
    """
    pipeline = load_pipeline(sdxl)
    pipeline.load_lora_weights(str(addons / "loras"), weight_name=lora.FILE_NAME, adapter_name="stripes")
    scenes = held_out_scenes(count)
    rng = np.random.default_rng(_SEED)
    prompts = [caption(scene, rng) for scene in scenes]
    rows = []
    for scale in SCALES:
        pipeline.set_adapters(["stripes"], [scale])
        images = generate_in_batches(pipeline, prompts)
        contrast = np.mean([stripe_contrast(image, scene) for image, scene in zip(images, scenes, strict=True)])
        rows.append([f"{scale:g}", f"{round(float(contrast), 2) + 0.0:.2f}", *_accuracies(images, scenes)])
    require_at_least("LoRA, stripe contrast at full scale", float(contrast), _MIN_STRIPE_CONTRAST)
    return table(["scale", "stripes", *ATTRIBUTES], rows)


def evaluate_ip_adapter(sdxl: Path, addons: Path, count: int) -> str:
    """Evaluates which attributes of a reference appear in images generated from it with an empty prompt.

    Args:
        sdxl: The small SDXL's folder.
        addons: The folder that contains `ip_adapters`.
        count: The number of images at each scale, four seeds per reference.

    Returns:
        A Markdown table.
    """
    pipeline = load_pipeline(sdxl)
    load_ip_adapter(pipeline, addons / "ip_adapters")
    scenes = held_out_scenes(-(-count // _SEEDS_PER_REFERENCE))
    rng = np.random.default_rng(_SEED)
    references = [Image.fromarray(render(scene, rng)) for scene in scenes]
    expected = [scene for scene in scenes for _ in range(_SEEDS_PER_REFERENCE)]
    prompts, seeds = [""] * _SEEDS_PER_REFERENCE, list(range(_SEEDS_PER_REFERENCE))
    rows = []
    for name, scale in {**{f"{scale:g}": scale for scale in SCALES}, "style block": STYLE, "layout block": LAYOUT}.items():
        pipeline.set_ip_adapter_scale(scale)
        images = np.concatenate([generate_images(pipeline, prompts, seeds, ip_adapter_image=reference) for reference in references])
        rows.append([name, *_accuracies(images, expected)])
        if scale == 1.0:
            require_at_least("IP-Adapter, place of the reference", _place_accuracy(images, expected), _MIN_IP_ADAPTER_PLACE)
    return table(["scale", *ATTRIBUTES], rows)


def evaluate_controlnet(sdxl: Path, addons: Path, count: int) -> str:
    """Evaluates whether figures are generated where the edges are.

    Args:
        sdxl: The small SDXL's folder.
        addons: The folder that contains `controlnets`.
        count: The number of images in each row.

    Returns:
        A Markdown table of the prompt adherence, and of the mean IoU of the generated and the rendered figure, 0 … 1.
    """
    pipeline = load_controlnet_pipeline(load_pipeline(sdxl), addons / "controlnets" / "canny")
    scenes = [_off_center(scene) for scene in held_out_scenes(count)]
    rng = np.random.default_rng(_SEED)
    rendered = np.stack([render(scene, rng) for scene in scenes])
    edge_maps = np.stack([edge_map(image) for image in rendered])
    prompts = [caption_without_place(scene, rng) for scene in scenes]
    cases = [("no place", prompts, scale) for scale in SCALES] + [("empty", [""] * count, 1.0)]
    rows = []
    for name, texts, scale in cases:
        images = generate_in_batches(pipeline, texts, edge_maps, controlnet_conditioning_scale=scale)
        overlap = f"{_mean_iou(images, rendered, scenes):.2f}" if all(texts) else "–"
        rows.append([name, f"{scale:g}", *_accuracies(images, scenes), overlap])
        if scale == 1.0 and all(texts):
            require_at_least("ControlNet, place of the edges", _place_accuracy(images, scenes), _MIN_CONTROLNET_PLACE)
    return table(["prompt", "scale", *ATTRIBUTES, "IoU"], rows)


def _off_center(scene: Scene) -> Scene:
    """Moves a centered figure to the top left, since a prompt without a place yields a centered figure anyway."""
    (figure,) = scene.figures
    return replace(scene, figures=(replace(figure, place="top left"),)) if figure.place == "centre" else scene


def _mean_iou(images: Pixels, rendered: Pixels, scenes: list[Scene]) -> float:
    masks = [(figure_mask(one, scene), figure_mask(other, scene)) for one, other, scene in zip(images, rendered, scenes, strict=True)]
    return float(np.mean([(one & other).sum() / max((one | other).sum(), 1) for one, other in masks]))


def _place_accuracy(images: Pixels, scenes: list[Scene]) -> float:
    return float(np.mean([count_matches(image, scene)["place"] for image, scene in zip(images, scenes, strict=True)]))


def _accuracies(images: Pixels, scenes: list[Scene]) -> list[str]:
    matches = sum((count_matches(image, scene) for image, scene in zip(images, scenes, strict=True)), Counter[str]())
    return [f"{matches[name] / len(scenes):.0%}" for name in ATTRIBUTES]
