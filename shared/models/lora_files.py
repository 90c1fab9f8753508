"""LoRA files: what trainers call layers → the layers of a model. Nothing of the model is touched."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shared.errors import ModelUnavailable

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


@dataclass(frozen=True, eq=False)
class Target:
    """A model that LoRAs are made for.

    Attributes:
        name: What messages call it.
        layers: Its layers that multiply by a matrix, each with the modules that share its weight.
        beginnings: How trainers begin a layer's name, and the component that they mean by it.
        originals: What the original implementation calls a layer, where that differs.
    """

    name: str
    layers: Mapping[Layer, Sequence[nn.Module]]
    beginnings: Mapping[str, str]
    originals: Mapping[Layer, str]

    def spellings(self) -> dict[str, Layer]:
        """Every way to write a layer's name, made plain."""
        named = {f"{component} {_plain(name)}": (component, name) for component, name in self.layers}
        return named | {f"{layer[0]} {_plain(original)}": layer for layer, original in self.originals.items()}


def layers_of(component: str, network: nn.Module) -> dict[Layer, nn.Module]:
    """The layers of a network that a LoRA may add to: those that multiply by a matrix."""
    kinds = (nn.Linear, nn.Conv2d)
    return {(component, name): module for name, module in network.named_modules() if isinstance(module, kinds)}


def size_of(lora: Lora) -> int:
    """Bytes."""
    return sum(factors.down.nbytes + factors.up.nbytes for factors in lora.values())


def read_lora(path: Path, target: Target) -> Lora:
    """Reads a LoRA in the form of kohya's scripts (with the names of the original or of diffusers), of diffusers or of peft.

    Args:
        path: A `.safetensors` file. Its tensors are copied, so that the file may be replaced.
        target: The model that it is for.

    Raises:
        ModelUnavailable: It is damaged, no LoRA, of another kind (LoHa, LoKr, DoRA), or made for another model.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            written = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(path, "it is damaged", target) from error
    if not tensors or not isinstance(written, dict):
        raise _unusable(path, "it is empty, or says nothing about itself that has a meaning", target)
    parts, spellings = dict[Layer, dict[str, Tensor]](), target.spellings()
    for name, tensor in tensors.items():
        layer, part = _place(name, target.beginnings, spellings) or (None, "")
        if layer is None:
            raise _unusable(path, f"{name!r} is no part of a LoRA for {target.name}", target)
        parts.setdefault(layer, {})[part] = tensor
    return {layer: _factors(path, layer, found, target, written) for layer, found in parts.items()}


def _place(name: str, beginnings: Mapping[str, str], spellings: Mapping[str, Layer]) -> tuple[Layer, str] | None:
    """The layer and the part (`down`, `up`, `alpha`) that a tensor's name stands for."""
    match = _ENDINGS.fullmatch(name)
    beginning = next((beginning for beginning in beginnings if name.startswith(beginning)), None)
    if match is None or beginning is None:
        return None
    spelt = f"{beginnings[beginning]} {_plain(match['layer'].removeprefix(beginning))}"
    layer = spellings.get(spelt) or spellings.get(f"{spelt}_0")  # diffusers once wrote `to_out` for `to_out.0`
    return (layer, _PARTS[match["peft"] or match["usual"] or match["alpha"]]) if layer else None


def _plain(name: str) -> str:
    """One spelling for all: without what only some versions of transformers and diffusers write, and without dots."""
    return name.replace(".", "_").replace("processor_", "").removeprefix("text_model_")


def _factors(path: Path, layer: Layer, parts: Mapping[str, Tensor], target: Target, written: Mapping[str, Any]) -> Factors:
    if not {"down", "up"} <= set(parts):
        raise _unusable(path, f"the layer {layer[1]!r} has only one of its two factors", target)
    # What has less than two dimensions is no factor, whatever its size.
    down, up = (parts[part].flatten(1) if parts[part].ndim > 1 else parts[part].new_empty(0, 0) for part in ("down", "up"))
    weight: Any = target.layers[layer][0].weight
    rank = down.shape[0]
    if (up.shape[0], down.shape[1]) != tuple(weight.flatten(1).shape) or up.shape[1] != rank or rank == 0:
        raise _unusable(path, f"the layer {layer[1]!r} has another shape than {target.name}'s", target)
    if not all(factor.float().isfinite().all() for factor in (down, up)):  # numbers in eight bits cannot be asked
        raise _unusable(path, f"the layer {layer[1]!r} holds values that are not finite", target)
    strength = _strength(layer, parts, written, rank)
    if not math.isfinite(strength):
        raise _unusable(path, f"the strength of the layer {layer[1]!r} is no number", target)
    return Factors(down, up, strength)


def _strength(layer: Layer, parts: Mapping[str, Tensor], written: Mapping[str, Any], rank: int) -> float:
    """At scale 1; not a number where the file does not say one."""
    if "alpha" in parts:
        return float(parts["alpha"]) / rank if parts["alpha"].numel() == 1 else math.nan
    try:
        return _written_strength(layer, written, rank)
    except (TypeError, ValueError, AttributeError):
        return math.nan


def _written_strength(layer: Layer, written: Mapping[str, Any], rank: int) -> float:
    """The strength by the configuration that peft writes into the file, by its rules; 1 without one."""
    component, name = layer
    alpha = written.get(f"{component}.lora_alpha")
    for pattern, special in (written.get(f"{component}.alpha_pattern") or {}).items():
        if name == pattern or name.endswith(f".{pattern}"):
            alpha = special
    return float(rank if alpha is None else alpha) / (math.sqrt(rank) if written.get(f"{component}.use_rslora") else rank)


def _unusable(path: Path, reason: str, target: Target) -> ModelUnavailable:
    return ModelUnavailable(
        f"config.loras: the LoRA {path.stem!r} cannot be used: {reason}. "
        f"Leave it out, or ask the operator to replace it by a LoRA for {target.name}."
    )
