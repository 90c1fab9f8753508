"""Reads LoRA files: maps the layer names of different trainers to the layers of a model. The model is not changed."""

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

from shared.weights.errors import WeightsError

_SUFFIXES = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<peft>[AB])\.weight|(?:\.|_)lora(?:_linear_layer)?[._](?P<usual>down|up)\.weight|\.(?P<alpha>alpha))"
)
_PARTS = {"A": "down", "B": "up", "down": "down", "up": "up", "alpha": "alpha"}

Layer = tuple[str, str]
"""A component of the pipeline and the name of a module in it."""


@dataclass(frozen=True, eq=False)
class LoraFactors:
    """The low-rank update of one layer's weight: `scaling` × `up` · `down`.

    Attributes:
        down: Rank × the inputs of one output value.
        up: Output channels × rank.
        scaling: At scale 1.
    """

    down: Tensor
    up: Tensor
    scaling: float


Lora = Mapping[Layer, LoraFactors]


@dataclass(frozen=True, eq=False)
class LoraTarget:
    """A model that LoRAs are trained for.

    Attributes:
        name: The model in messages.
        layers: Its linear and convolutional layers, each with the modules that share its weight.
        prefixes: The prefixes of layer names in files, and the component that each stands for.
        original_names: The layers' names in the original implementation, where they differ.
    """

    name: str
    layers: Mapping[Layer, Sequence[nn.Module]]
    prefixes: Mapping[str, str]
    original_names: Mapping[Layer, str]

    def aliases(self) -> dict[str, Layer]:
        """Returns every normalised name of every layer."""
        named = {f"{component} {_normalised(name)}": (component, name) for component, name in self.layers}
        return named | {f"{layer[0]} {_normalised(original)}": layer for layer, original in self.original_names.items()}


def lora_layers(component: str, network: nn.Module) -> dict[Layer, nn.Module]:
    """Returns the layers of a network that a LoRA can change: the linear and convolutional ones."""
    kinds = (nn.Linear, nn.Conv2d)
    return {(component, name): module for name, module in network.named_modules() if isinstance(module, kinds)}


def lora_size(lora: Lora) -> int:
    """Returns the bytes of a LoRA's factors."""
    return sum(factors.down.nbytes + factors.up.nbytes for factors in lora.values())


def read_lora(path: Path, target: LoraTarget) -> Lora:
    """Reads a LoRA in the format of kohya's scripts (with original or diffusers names), diffusers or peft.

    Args:
        path: A `.safetensors` file. Its tensors are copied, so the file may be replaced afterwards.
        target: The model that it is for.

    Raises:
        WeightsError: It is damaged, no LoRA, of another kind (LoHa, LoKr, DoRA), or trained for another model.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            config = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(path, "it is damaged") from error
    if not tensors or not isinstance(config, dict):
        raise _unusable(path, "it is empty, or its adapter metadata is not an object")
    parts, aliases = dict[Layer, dict[str, Tensor]](), target.aliases()
    for name, tensor in tensors.items():
        layer, part = _locate(name, target.prefixes, aliases) or (None, "")
        if layer is None:
            raise _unusable(path, f"{name!r} does not belong to a LoRA for {target.name}")
        parts.setdefault(layer, {})[part] = tensor
    return {layer: _factors(path, layer, found, target, config) for layer, found in parts.items()}


def _locate(name: str, prefixes: Mapping[str, str], aliases: Mapping[str, Layer]) -> tuple[Layer, str] | None:
    """The layer and the part (`down`, `up`, `alpha`) that a tensor's name stands for."""
    match = _SUFFIXES.fullmatch(name)
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    if match is None or prefix is None:
        return None
    alias = f"{prefixes[prefix]} {_normalised(match['layer'].removeprefix(prefix))}"
    layer = aliases.get(alias) or aliases.get(f"{alias}_0")  # older versions of diffusers wrote `to_out` for `to_out.0`
    return (layer, _PARTS[match["peft"] or match["usual"] or match["alpha"]]) if layer else None


def _normalised(name: str) -> str:
    """A name without dots, and without the parts that only some versions of transformers and diffusers write."""
    return name.replace(".", "_").replace("processor_", "").removeprefix("text_model_")


def _factors(path: Path, layer: Layer, parts: Mapping[str, Tensor], target: LoraTarget, config: Mapping[str, Any]) -> LoraFactors:
    if not {"down", "up"} <= set(parts):
        raise _unusable(path, f"the layer {layer[1]!r} has only one of its two factors")
    # A tensor of fewer than two dimensions is no factor, whatever its size.
    down, up = (parts[part].flatten(1) if parts[part].ndim > 1 else parts[part].new_empty(0, 0) for part in ("down", "up"))
    weight: Any = target.layers[layer][0].weight
    rank = down.shape[0]
    if (up.shape[0], down.shape[1]) != tuple(weight.flatten(1).shape) or up.shape[1] != rank or rank == 0:
        raise _unusable(path, f"the layer {layer[1]!r} has another shape than {target.name}'s")
    if not all(factor.float().isfinite().all() for factor in (down, up)):  # isfinite does not support 8-bit floats
        raise _unusable(path, f"the layer {layer[1]!r} contains values that are not finite")
    scaling = _scaling(layer, parts, config, rank)
    if not math.isfinite(scaling):
        raise _unusable(path, f"the scaling of the layer {layer[1]!r} is not a number")
    return LoraFactors(down, up, scaling)


def _scaling(layer: Layer, parts: Mapping[str, Tensor], config: Mapping[str, Any], rank: int) -> float:
    """The scaling at scale 1; NaN if the file has an invalid one."""
    if "alpha" in parts:
        return float(parts["alpha"]) / rank if parts["alpha"].numel() == 1 else math.nan
    try:
        return _peft_scaling(layer, config, rank)
    except (TypeError, ValueError, AttributeError):
        return math.nan


def _peft_scaling(layer: Layer, config: Mapping[str, Any], rank: int) -> float:
    """The scaling by the adapter configuration that peft writes into the file, by its rules; 1 without one."""
    component, name = layer
    alpha = config.get(f"{component}.lora_alpha")
    for pattern, special in (config.get(f"{component}.alpha_pattern") or {}).items():
        if name == pattern or name.endswith(f".{pattern}"):
            alpha = special
    return float(rank if alpha is None else alpha) / (math.sqrt(rank) if config.get(f"{component}.use_rslora") else rank)


def _unusable(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"loras/{path.stem}", reason)
