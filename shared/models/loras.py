"""Merges LoRAs into a model's weights for one job.

The layers get new tensors while the job runs, so the original ones are restored exactly, and a step costs no more than without.
Loaded LoRAs stay in the LRU cache of `AddonLibrary`, so switching between them reads no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shared.contract.names import quote_name
from shared.models.lora_files import Lora, lora_size, read_lora
from shared.models.lora_names import Layer, LoraLayer, LoraTarget
from shared.models.lora_updates import LayerUpdate, to_float32
from shared.models.persistent_tensors import ordinary_tensors
from shared.weights.addons import AddonLibrary

_LISTED = 3

ScaledUpdates = Sequence[tuple[LayerUpdate, float]]
"""The updates of one layer, each with the scale of its LoRA."""


class RequestedLora(Protocol):
    """A LoRA in a request: its name and scale."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def scale(self) -> float: ...  # noqa: D102


@contextmanager
def with_loras(
    target: LoraTarget,
    requested: Sequence[RequestedLora],
    addons: AddonLibrary,
    warn: Callable[[str], None],
    is_used: Callable[[LoraLayer], bool] = lambda layer: True,
) -> Iterator[dict[str, float]]:
    """Merges a request's LoRAs into a model while the body runs. The scales of one that is named twice are added.

    Args:
        target: The model.
        requested: The LoRAs of the request.
        addons: The operator's files.
        warn: Receives a warning for each LoRA that is used in part or not at all.
        is_used: Whether the job uses a layer: a model may have networks that serve other jobs.

    Yields:
        The effective scale of each, by name.

    Raises:
        ModelUnavailable: One is not installed or cannot be used. The model is unchanged.
    """
    scales: dict[str, float] = {}
    for lora in requested:
        scales[lora.name] = scales.get(lora.name, 0.0) + lora.scale
    # One with scale 0 is loaded too, so that it is rejected if it cannot be used.
    loaded = {name: addons.load("loras", name, lambda path: read_lora(path, target), lora_size) for name in scales}
    for name, each in loaded.items():
        if text := _unused(name, each, target, is_used):
            warn(text)
    with merged(target, [(loaded[name], scale) for name, scale in scales.items() if scale]):
        yield scales


@contextmanager
def merged(target: LoraTarget, loras: Sequence[tuple[Lora, float]]) -> Iterator[None]:
    """Replaces the weights and biases of a model's layers by merged ones while the body runs.

    On a GPU this needs as much memory again as the layers that the LoRAs change, at most all layers, and some copies of the largest.

    Args:
        target: The model. All pipelines that share its networks are affected.
        loras: Each with its scale.
    """
    originals: list[tuple[nn.Module, str, Any]] = []
    try:
        with ordinary_tensors():
            for layer, updates in _by_layer(loras).items():
                for module, name, parameter in _merged_parameters(target.layers[layer], updates):
                    originals.append((module, name, getattr(module, name)))
                    setattr(module, name, parameter)
        yield
    finally:
        for module, name, parameter in originals:
            setattr(module, name, parameter)


def merged_weight(weight: Tensor, updates: ScaledUpdates) -> Tensor:
    """Returns a weight with LoRAs merged, computed in float32 and rounded once.

    Args:
        weight: The weight of a layer.
        updates: The update of each LoRA, and the LoRA's scale.

    Returns:
        A tensor with the shape, precision and device of `weight`.
    """
    original = weight.to(torch.float32)
    total = original.clone()
    for update, scale in updates:
        total.add_(update.weight_difference(original), alpha=scale)
    return total.to(weight.dtype)


def _merged_parameters(layer: LoraLayer, updates: ScaledUpdates) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    if changing := [(update, scale) for update, scale in updates if update.algorithm]:
        weight = nn.Parameter(merged_weight(layer.weight, changing), requires_grad=False)
        yield from ((module, layer.parameter, weight) for module in layer.modules)
    if any(update.bias is not None for update, _ in updates):
        bias = nn.Parameter(_merged_bias(layer, updates), requires_grad=False)
        yield from ((module, "bias", bias) for module in layer.modules)


def _merged_bias(layer: LoraLayer, updates: ScaledUpdates) -> Tensor:
    """The bias of a layer with LoRAs merged; a layer without one gets one."""
    weight, bias = layer.weight, getattr(layer.modules[0], "bias", None)
    total = torch.zeros(weight.shape[0], device=weight.device) if bias is None else bias.to(torch.float32, copy=True)
    for update, scale in updates:
        if update.bias is not None:
            total.add_(to_float32(update.bias, total.device), alpha=scale)
    return total.to(weight.dtype if bias is None else bias.dtype)


def _by_layer(loras: Sequence[tuple[Lora, float]]) -> Mapping[Layer, list[tuple[LayerUpdate, float]]]:
    by_layer: dict[Layer, list[tuple[LayerUpdate, float]]] = {}
    for lora, scale in loras:
        for layer, update in lora.updates.items():
            by_layer.setdefault(layer, []).append((update, scale))
    return by_layer


def _unused(name: str, lora: Lora, target: LoraTarget, is_used: Callable[[LoraLayer], bool]) -> str | None:
    """The warning about a LoRA without effect, or about its parts that the model does not have."""
    if not lora.updates:
        return f"LoRA {quote_name(name)} has no effect: this worker's {target.name} has none of the layers that it changes"
    if not any(is_used(target.layers[layer]) for layer in lora.updates):
        return f"LoRA {quote_name(name)} has no effect: this job uses none of the layers that it changes"
    if not lora.unused:
        return None
    listed = ", ".join(repr(each[:100]) for each in lora.unused[:_LISTED]) + (" …" if len(lora.unused) > _LISTED else "")
    used, total = len(lora.updates), len(lora.updates) + len(lora.unused)
    return (
        f"LoRA {quote_name(name)} applies to {used} of its {total} layers; the others do not exist in this worker's {target.name}: {listed}"
    )
