"""Reads LoRA files of all common trainers and checks them against the layers of a model. The model is not changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared.models.lora_family import trained_for
from shared.models.lora_names import Layer, LoraLayer, LoraTarget, parse_tensor_name, unsupported_kind
from shared.models.lora_scaling import adapter_config, scaling
from shared.models.lora_updates import LayerUpdate, update_rank, update_shape
from shared.weights.errors import WeightsError

_ALGORITHM_OF_PART = {"down": "LoRA", "up": "LoRA", "mid": "LoRA", "hada": "LoHa", "lokr": "LoKr", "diff": "full difference"}
_BUNDLED = "bundle_emb."
# Three times what a LoKr with Tucker decomposition has for every layer of SDXL and of its text encoders.
_MAX_TENSORS = 20_000


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA that fits a model.

    Attributes:
        updates: The change of each layer.
        unused: Names of layers in the file that only other variants of the model have, and of bundled textual inversions.
    """

    updates: Mapping[Layer, LayerUpdate]
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _LayerParts:
    """The tensors of one layer in the file, by part, and the layer's name there."""

    name: str
    parts: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class _File:
    """The content of a file.

    Attributes:
        path: Where it was read.
        layers: Its layers by their name in the file.
        unparsed: Names of tensors in no known spelling.
        header: Its metadata.
        config: The adapter configuration in it.
    """

    path: Path
    layers: Mapping[str, _LayerParts]
    unparsed: tuple[str, ...]
    header: Mapping[str, str]
    config: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The kind of adapter, as messages name it."""
        parts = {part for layer in self.layers.values() for part in layer.parts}
        if special := next((kind for name in self.unparsed if (kind := unsupported_kind(name))), None):
            return special
        if {"dora_scale", "magnitude_vector"} & parts:
            return "DoRA"
        algorithms = {_algorithm(part) for part in parts} - {""}
        return next((kind for kind in ("LoHa", "LoKr") if kind in algorithms), "LoRA")

    def family(self) -> str | None:
        """The model family that it was trained for, if it is recognised."""
        return trained_for({name: _inputs(layer.parts) for name, layer in self.layers.items()}, self.header)


def lora_size(lora: Lora) -> int:
    """Returns the bytes of a LoRA's tensors."""
    return sum(tensor.nbytes for update in lora.updates.values() for tensor in update.tensors())


def read_lora(path: Path, target: LoraTarget) -> Lora:
    """Reads a LoRA, LoCon, LoHa, LoKr, DoRA or full difference in the spelling of any common trainer.

    Args:
        path: A `.safetensors` file. Its tensors are copied, so the file may be replaced afterwards.
        target: The model that it is for.

    Raises:
        WeightsError: It is damaged, no LoRA, of a kind that cannot be merged, or trained for another model.
    """
    file = _read(path)
    unused = [name for name in file.unparsed if name.startswith(_BUNDLED)]
    found: dict[Layer, list[_LayerParts]] = {}
    _refuse_unparsed(file, set(file.unparsed) - set(unused), target)
    for layer in file.layers.values():
        if address := target.find(layer.name):
            found.setdefault(address, []).append(layer)
        elif target.is_optional(layer.name):
            unused.append(layer.name)
        else:
            raise _foreign(file, layer.name, target)
    if not found and not unused:
        raise _unusable(path, f"it changes no layer that this worker's {target.name} has")
    updates = {address: _update(file, address, _joined(file, layers), target) for address, layers in found.items()}
    return Lora(updates, tuple(unused))


def _read(path: Path) -> _File:
    try:
        with safe_open(path, "pt") as opened:
            names = list(opened.keys())
            if len(names) > _MAX_TENSORS:
                raise _unusable(path, f"it has {len(names):,} tensors, and at most {_MAX_TENSORS:,} are read")
            tensors = {name: opened.get_tensor(name).clone() for name in names}
            header = dict(opened.metadata() or {})
        config = adapter_config(header)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(path, "it is damaged, or its adapter metadata is not an object") from error
    if not tensors:
        raise _unusable(path, "it is empty")
    layers: dict[str, _LayerParts] = {}
    unparsed = []
    for name, tensor in tensors.items():
        if parsed := parse_tensor_name(name):
            layers.setdefault(parsed.layer, _LayerParts(parsed.layer, {})).parts[parsed.part] = tensor
        else:
            unparsed.append(name)
    return _File(path, layers, tuple(unparsed), header, config)


def _refuse_unparsed(file: _File, names: Iterable[str], target: LoraTarget) -> None:
    if not (names := sorted(names)):
        return
    if kind := next((kind for name in names if (kind := unsupported_kind(name))), None):
        raise _unusable(file.path, f"it is {_with_article(kind)}, which cannot be merged; supported are LoRA, LoCon, LoHa, LoKr and DoRA")
    raise _foreign(file, names[0], target)


def _foreign(file: _File, name: str, target: LoraTarget) -> WeightsError:
    family = file.family() if file.layers else None
    if family is not None and family != target.name:
        return _unusable(file.path, f"it is {_with_article(file.kind)} for {family}, and this worker's model is {target.name}")
    return _unusable(file.path, f"{name[:200]!r} does not belong to a {file.kind if file.layers else 'LoRA'} for {target.name}")


def _joined(file: _File, layers: list[_LayerParts]) -> _LayerParts:
    """The parts of a layer that the file spells in several ways."""
    joined = _LayerParts(layers[0].name, dict(layers[0].parts))
    for layer in layers[1:]:
        for part, tensor in layer.parts.items():
            if not torch.equal(joined.parts.setdefault(part, tensor), tensor):
                raise _unusable(file.path, f"the layer {layer.name!r} occurs twice in it, with different values")
    return joined


def _update(file: _File, address: Layer, found: _LayerParts, target: LoraTarget) -> LayerUpdate:
    layer, parts = target.layers[address], found.parts
    if not all(tensor.float().isfinite().all() for part, tensor in parts.items() if part != "alpha"):  # isfinite lacks 8-bit floats
        raise _unusable(file.path, f"the layer {found.name!r} contains values that are not finite")
    algorithm = _only_algorithm(file, found)
    factors = {part: tensor for part, tensor in parts.items() if _algorithm(part)}
    if algorithm:
        _check_shape(file, found, algorithm, factors, layer, target)
    strength = _scaling(file, address, found, factors, layer)
    return LayerUpdate(algorithm, factors, strength, _magnitude(file, found, layer), _bias(file, found, layer, strength))


def _algorithm(part: str) -> str:
    """The algorithm that a part belongs to, or nothing."""
    return _ALGORITHM_OF_PART.get(part) or _ALGORITHM_OF_PART.get(part.split("_")[0] if part != "diff_b" else "", "")


def _only_algorithm(file: _File, found: _LayerParts) -> str:
    algorithms = {algorithm for part in found.parts if (algorithm := _algorithm(part))}
    if len(algorithms) > 1:
        raise _unusable(file.path, f"the layer {found.name!r} mixes {' and '.join(sorted(algorithms))}")
    if not algorithms and not {"diff_b"} & set(found.parts):
        raise _unusable(file.path, f"the layer {found.name!r} has no factors")
    return next(iter(algorithms), "")


def _check_shape(
    file: _File, found: _LayerParts, algorithm: str, factors: Mapping[str, Tensor], layer: LoraLayer, target: LoraTarget
) -> None:
    try:
        shape = update_shape(algorithm, factors)
    except KeyError as error:
        raise _unusable(file.path, f"the layer {found.name!r} lacks its factor {error.args[0]!r}") from error
    except (RuntimeError, IndexError, ValueError):
        raise _unusable(file.path, f"the factors of the layer {found.name!r} do not fit together") from None
    expected = layer.weight.shape
    fits = shape.numel() == expected.numel() and tuple(shape[:1]) == tuple(expected[:1])
    if not fits or any(tensor.numel() == 0 for tensor in factors.values()):
        family = file.family()
        if family not in (None, target.name):
            raise _foreign(file, found.name, target)
        raise _unusable(
            file.path,
            f"the layer {found.name!r} changes a weight of shape {_shape(shape)}, and that of this worker's {target.name} has "
            f"{_shape(expected)}: it is for a model of another size",
        )


def _magnitude(file: _File, found: _LayerParts, layer: LoraLayer) -> Tensor | None:
    """DoRA's magnitudes: those of the outputs from peft and with `wd_on_out`, otherwise those of the inputs."""
    stored = found.parts.get("dora_scale", found.parts.get("magnitude_vector"))
    if stored is None:
        return None
    shape = layer.weight.shape
    outputs, inputs = (shape[0], *[1] * (len(shape) - 1)), (1, *shape[1:2], *[1] * (len(shape) - 2))
    by_input = "dora_scale" in found.parts and stored.ndim > 1 and stored.shape[0] == 1 != shape[0]
    expected = inputs if by_input else outputs
    if stored.numel() != math.prod(expected) or len(shape) < 2:
        raise _unusable(file.path, f"the magnitudes of the layer {found.name!r} have another shape than its weight")
    return stored.reshape(expected)


def _bias(file: _File, found: _LayerParts, layer: LoraLayer, strength: float) -> Tensor | None:
    parts = found.parts
    bias = parts.get("diff_b", parts["lora_bias"].float() * strength if "lora_bias" in parts else None)
    if bias is not None and (bias.numel() != layer.weight.shape[0] or not layer.takes_bias):
        raise _unusable(file.path, f"the layer {found.name!r} has a bias that the model's does not take")
    return None if bias is None else bias.flatten()


def _scaling(file: _File, address: Layer, found: _LayerParts, factors: Mapping[str, Tensor], layer: LoraLayer) -> float:
    rank, alpha = update_rank(factors), found.parts.get("alpha")
    if "diff" in factors or (rank is None and alpha is not None):
        return 1.0
    try:
        if alpha is not None and rank is not None:
            value = float(alpha.item()) / rank
        else:
            kernel = math.prod(layer.weight.shape[2:]) > 1
            value = scaling(file.config, address[0], (found.name, address[1]), rank, kernel=kernel)
    except (TypeError, ValueError, AttributeError, RuntimeError):
        value = math.nan
    if not math.isfinite(value):
        raise _unusable(file.path, f"the scaling of the layer {found.name!r} is not a number")
    return value


def _inputs(parts: Mapping[str, Tensor]) -> int | None:
    """The number of inputs of a layer, as far as its factors tell."""
    algorithm = next((algorithm for part in parts if (algorithm := _algorithm(part))), "")
    try:
        shape = update_shape(algorithm, {part: tensor for part, tensor in parts.items() if _algorithm(part)})
    except (KeyError, RuntimeError, IndexError, ValueError):
        return None
    return shape[1] if len(shape) > 1 else None


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'OI' else 'a'} {kind}"


def _shape(shape: torch.Size) -> str:
    return " × ".join(str(size) for size in shape) or "1"


def _unusable(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"loras/{path.stem}", reason)
