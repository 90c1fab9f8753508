"""Maps the tensor names of LoRA files, in the spellings of the common trainers, to the layers of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor, nn

Layer = tuple[str, str]
"""A component of the pipeline and the name of a module in it, or of a parameter that belongs to no layer of its own."""

# peft writes the adapter's name (`default`) into the names of its tensors; `.weight` follows the parts that are layers there.
_ADAPTER = r"(?:\.[^.]+)?"
_LYCORIS = r"hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2"
_TENSOR = re.compile(
    rf"(?P<layer>.+?)(?:"
    rf"\.lora_(?P<peft>[AB]){_ADAPTER}\.(?P<what>weight|bias)"
    rf"|[._]lora(?:_linear_layer)?[._](?P<factor>down|up|mid){_ADAPTER}\.weight"
    rf"|\.lora_(?P<magnitude>magnitude_vector){_ADAPTER}"
    rf"|\.(?P<lycoris>{_LYCORIS}){_ADAPTER}"
    rf"|\.(?P<other>alpha|dora_scale|diff|diff_b|diff_m|w_norm|b_norm)"
    rf")"
)
_PEFT = {("A", "weight"): "down", ("B", "weight"): "up", ("B", "bias"): "lora_bias"}
_OTHER = {"w_norm": "diff", "b_norm": "diff_b"}  # LyCORIS's names for the differences of a normalisation layer

_UNSUPPORTED = (
    (re.compile(r"\.oft_(?:blocks|diag|R)|\.boft_"), "OFT"),
    (re.compile(r"\.on_input$|\.ia3_l"), "IA³"),
    (re.compile(r"\.[ab][12]\.weight$"), "GLoRA"),
    (re.compile(r"\.lambda_layer$|\.[pq]_layer\.weight$"), "T-LoRA"),
    (re.compile(r"\.vera_lambda_|\.vera_[AB]"), "VeRA"),
    (re.compile(r"\.(?:set|reshape)_weight$"), "file that replaces weights"),
)


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """A weight that a LoRA can change.

    Attributes:
        modules: The modules that share it.
        parameter: Its attribute there.
    """

    modules: tuple[nn.Module, ...]
    parameter: str = "weight"

    @property
    def weight(self) -> Tensor:
        """The current weight."""
        weight: Tensor = getattr(self.modules[0], self.parameter)
        return weight

    @property
    def takes_bias(self) -> bool:
        """Whether the modules add a bias, or would add one."""
        return self.parameter == "weight" and hasattr(self.modules[0], "bias")


class TensorName(NamedTuple):
    """The parsed name of a tensor: the layer's name in the file, and which part of its update the tensor is."""

    layer: str
    part: str


@dataclass(frozen=True, eq=False)
class LoraTarget:
    """A model that LoRAs are trained for.

    Attributes:
        name: The model in messages.
        layers: Its weights.
        prefixes: The prefixes of layer names in files, with underscores for dots, and the component that each stands for.
        original_names: The layers' names in the original implementation, where they differ.
        optional: Matches the names of layers that only other variants of the model have.
    """

    name: str
    layers: Mapping[Layer, LoraLayer]
    prefixes: Mapping[str, str]
    original_names: Mapping[Layer, str]
    optional: re.Pattern[str] = field(default=re.compile(r"(?!)"))

    def find(self, name: str) -> Layer | None:
        """Returns the layer that a name in a file stands for."""
        flat = _normalised(name)
        for prefix, component in self._prefixes:
            rest = flat.removeprefix(prefix).lstrip("_").removeprefix("base_model_model_") if _starts(flat, prefix) else None
            if rest and (layer := self._find_in(component, rest)):
                return layer
        return None

    def is_optional(self, name: str) -> bool:
        """Returns whether a name may be absent from this model without harm: another variant has the layer."""
        return self.optional.search(_normalised(name)) is not None

    def _find_in(self, component: str, rest: str) -> Layer | None:
        alias = f"{component} {rest.removeprefix('text_model_')}"
        # Older versions of diffusers wrote `to_out` for `to_out.0`.
        return self._aliases.get(alias) or self._aliases.get(f"{alias}_0")

    @cached_property
    def _prefixes(self) -> Sequence[tuple[str, str]]:
        return sorted(self.prefixes.items(), key=lambda item: -len(item[0]))

    @cached_property
    def _aliases(self) -> Mapping[str, Layer]:
        named = {(layer[0], layer[1]): layer for layer in self.layers} | {
            (layer[0], original): layer for layer, original in self.original_names.items()
        }
        return {f"{component} {_normalised(name).removeprefix('text_model_')}": layer for (component, name), layer in named.items()}


def lora_layers(component: str, network: nn.Module) -> dict[Layer, LoraLayer]:
    """Returns the weights of a network that a LoRA can change: every parameter but the biases, which belong to their layers."""
    layers: dict[Layer, LoraLayer] = {}
    for path, module in network.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            if parameter != "bias":
                name = path if parameter == "weight" else f"{path}.{parameter}".removeprefix(".")
                layers[component, name] = LoraLayer((module,), parameter)
    return layers


def parse_tensor_name(name: str) -> TensorName | None:
    """Splits a tensor's name; None if it is in no known spelling.

    Returns:
        The part is a key of an algorithm's factors (`down`, `hada_w1_a`, `diff`), or `alpha`, `diff_b`, `lora_bias`, `dora_scale` or
        `magnitude_vector`.
    """
    match = _TENSOR.fullmatch(name) or _TENSOR.fullmatch(name.removesuffix(".weight"))
    if match is None or (match["peft"], match["what"]) == ("A", "bias"):
        return None
    if match["other"] == "diff_m":  # lightx2v's name for the difference of a WAN block's modulation
        return TensorName(f"{match['layer']}.modulation", "diff")
    part: Any = (
        _PEFT.get((match["peft"], match["what"]))
        or match["factor"]
        or match["magnitude"]
        or match["lycoris"]
        or _OTHER.get(match["other"], match["other"])
    )
    return TensorName(match["layer"], part)


def unsupported_kind(name: str) -> str | None:
    """Returns the kind of adapter that a tensor belongs to, if it is a known one that cannot be merged."""
    return next((kind for pattern, kind in _UNSUPPORTED if pattern.search(name)), None)


def _starts(flat: str, prefix: str) -> bool:
    return not prefix or (flat.startswith(prefix) and flat[len(prefix) : len(prefix) + 1] == "_")


def _normalised(name: str) -> str:
    """A name without dots, and without the parts that only some versions and wrappers write."""
    flat = name.replace(".", "_").replace("processor_", "").replace("_orig_mod_", "")
    return flat.removeprefix("base_model_model_").removeprefix("_orig_mod_")
