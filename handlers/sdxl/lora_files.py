"""LoRA files: what trainers call layers → the layers of a pipeline. Nothing of a pipeline is touched."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from handlers.sdxl.original_names import unet_name
from shared.errors import ModelUnavailable

_COMPONENTS = ("unet", "text_encoder", "text_encoder_2")

# How trainers begin a layer's name: kohya's scripts and their kin, then diffusers and peft, which write the component's name.
_BEGINNINGS = {"lora_unet_": "unet", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2", "lora_te_": "text_encoder"} | {
    f"{component}.": component for component in _COMPONENTS
}
_ENDINGS = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<peft>[AB])\.weight|(?:\.|_)lora(?:_linear_layer)?[._](?P<usual>down|up)\.weight|\.(?P<alpha>alpha))"
)
_PARTS = {"A": "down", "B": "up", "down": "down", "up": "up", "alpha": "alpha"}

Layer = tuple[str, str]
"""A component of the pipeline and the name of a module in it."""


@dataclass(frozen=True, eq=False)
class Factors:
    """What a LoRA adds to one layer's weight: `strength` × `up` · `down`.

    Attributes:
        down: Rank × all that one output value is computed from.
        up: Output channels × rank.
        strength: At scale 1.
    """

    down: Tensor
    up: Tensor
    strength: float


Lora = Mapping[Layer, Factors]
"""What a LoRA adds to which layers."""


def layers(pipeline: Any) -> dict[Layer, nn.Module]:
    """All layers that a LoRA may add to: those that multiply by a matrix."""
    return {
        (component, name): module
        for component in _COMPONENTS
        for name, module in getattr(pipeline, component).named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }


def size_of(lora: Lora) -> int:
    """Bytes."""
    return sum(factors.down.nbytes + factors.up.nbytes for factors in lora.values())


def read_lora(path: Path, pipeline: Any) -> Lora:
    """Reads a LoRA in the form of kohya's scripts (with the names of the original or of diffusers), of diffusers or of peft.

    Args:
        path: A `.safetensors` file. Its tensors are copied, so that the file may be replaced.
        pipeline: The pipeline that it is for.

    Raises:
        ModelUnavailable: It is damaged, no LoRA, of another kind (LoHa, LoKr, DoRA), or made for another model.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            written = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(path, "it is damaged") from error
    if not tensors:
        raise _unusable(path, "it is empty")
    known, parts = layers(pipeline), dict[Layer, dict[str, Tensor]]()
    spellings = dict(_spellings(pipeline, known))
    for name, tensor in tensors.items():
        layer, part = _place(name, spellings) or (None, "")
        if layer is None:
            raise _unusable(path, f"{name!r} is no part of a LoRA for SDXL")
        parts.setdefault(layer, {})[part] = tensor
    return {layer: _factors(path, layer, found, known[layer], written) for layer, found in parts.items()}


def _place(name: str, spellings: Mapping[str, Layer]) -> tuple[Layer, str] | None:
    """The layer and the part (`down`, `up`, `alpha`) that a tensor's name stands for."""
    match = _ENDINGS.fullmatch(name)
    beginning = next((beginning for beginning in _BEGINNINGS if name.startswith(beginning)), None)
    if match is None or beginning is None:
        return None
    spelt = f"{_BEGINNINGS[beginning]} {_plain(match['layer'].removeprefix(beginning))}"
    layer = spellings.get(spelt) or spellings.get(f"{spelt}_0")  # diffusers once wrote `to_out` for `to_out.0`
    return (layer, _PARTS[match["peft"] or match["usual"] or match["alpha"]]) if layer else None


def _plain(name: str) -> str:
    """One spelling for all: without what only some versions of transformers and diffusers write, and without dots."""
    return name.replace(".", "_").replace("processor_", "").removeprefix("text_model_")


def _spellings(pipeline: Any, known: Mapping[Layer, nn.Module]) -> Iterator[tuple[str, Layer]]:
    config = pipeline.unet.config
    attending = tuple("CrossAttn" in kind for kind in config.up_block_types)
    for component, name in known:
        yield f"{component} {_plain(name)}", (component, name)
        if component == "unet":
            original = unet_name(f"{name}.weight", config.layers_per_block, attending).removesuffix(".weight")
            yield f"{component} {_plain(original)}", (component, name)


def _factors(path: Path, layer: Layer, parts: Mapping[str, Tensor], module: nn.Module, written: Mapping[str, Any]) -> Factors:
    if not {"down", "up"} <= set(parts):
        raise _unusable(path, f"the layer {layer[1]!r} has only one of its two factors")
    down, up = parts["down"].flatten(1), parts["up"].flatten(1)
    weight: Any = module.weight
    if (up.shape[0], down.shape[1]) != tuple(weight.flatten(1).shape) or up.shape[1] != down.shape[0]:
        raise _unusable(path, f"the layer {layer[1]!r} has another shape than SDXL's")
    if not (down.isfinite().all() and up.isfinite().all()):
        raise _unusable(path, f"the layer {layer[1]!r} holds values that are not finite")
    rank = down.shape[0]
    strength = float(parts["alpha"]) / rank if "alpha" in parts else _written_strength(layer, written, rank)
    return Factors(down, up, strength)


def _written_strength(layer: Layer, written: Mapping[str, Any], rank: int) -> float:
    """The strength by the configuration that peft writes into the file, by its rules; 1 without one."""
    component, name = layer
    alpha = written.get(f"{component}.lora_alpha", rank)
    for pattern, special in (written.get(f"{component}.alpha_pattern") or {}).items():
        if name == pattern or name.endswith(f".{pattern}"):
            alpha = special
    return float(alpha) / (math.sqrt(rank) if written.get(f"{component}.use_rslora") else rank)


def _unusable(path: Path, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"config.loras: the LoRA {path.stem!r} cannot be used: {reason}. "
        "Leave it out, or ask the operator to replace it by a LoRA for SDXL."
    )
