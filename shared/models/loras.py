"""Merges LoRAs into a model's weights for one job.

The layers get new weight tensors while the job runs, so the original ones are restored exactly, and a step costs no more than without.
Loaded LoRAs stay in the LRU cache of `AddonLibrary`, so switching between them reads no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shared.models.lora_files import Layer, Lora, LoraFactors, LoraTarget, lora_size, read_lora
from shared.weights.addons import AddonLibrary


class RequestedLora(Protocol):
    """A LoRA in a request: its name and scale."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def scale(self) -> float: ...  # noqa: D102


@contextmanager
def with_loras(target: LoraTarget, requested: Sequence[RequestedLora], addons: AddonLibrary) -> Iterator[dict[str, float]]:
    """Merges a request's LoRAs into a model while the body runs. The scales of one that is named twice are added.

    Yields:
        The effective scale of each, by name.

    Raises:
        ModelUnavailable: One is not installed or cannot be used. The model is unchanged.
    """
    scales: dict[str, float] = {}
    for lora in requested:
        scales[lora.name] = scales.get(lora.name, 0.0) + lora.scale
    # One with scale 0 is loaded too, so that it is rejected if it cannot be used.
    loaded = [(addons.load("loras", name, lambda path: read_lora(path, target), lora_size), scale) for name, scale in scales.items()]
    with merged(target, [(lora, scale) for lora, scale in loaded if scale]):
        yield scales


@contextmanager
def merged(target: LoraTarget, loras: Sequence[tuple[Lora, float]]) -> Iterator[None]:
    """Replaces the weights of a model's layers by merged ones while the body runs.

    On a GPU this needs as much memory again as the layers that the LoRAs change, at most all linear layers.

    Args:
        target: The model. All pipelines that share its networks are affected.
        loras: Each with its scale.
    """
    originals: dict[nn.Module, Any] = {}
    try:
        for layer, factors in _by_layer(loras).items():
            modules: Sequence[Any] = target.layers[layer]
            weight = nn.Parameter(merged_weight(modules[0].weight, factors), requires_grad=False)
            for module in modules:
                originals[module] = module.weight
                module.weight = weight
        yield
    finally:
        for module, weight in originals.items():
            module.weight = weight


def merged_weight(weight: Tensor, factors: list[tuple[LoraFactors, float]]) -> Tensor:
    """Returns a weight with LoRAs merged, computed in float32 and rounded once.

    Args:
        weight: The weight of a linear or convolutional layer.
        factors: The factors of each LoRA, and its scale.

    Returns:
        A tensor with the shape, precision and device of `weight`.
    """
    total = weight.to(torch.float32, copy=True).flatten(1)
    for each, scale in factors:
        up, down = (factor.to(weight.device, torch.float32) for factor in (each.up, each.down))
        total.addmm_(up, down, alpha=each.scaling * scale)
    return total.reshape(weight.shape).to(weight.dtype)


def _by_layer(loras: Sequence[tuple[Lora, float]]) -> Mapping[Layer, list[tuple[LoraFactors, float]]]:
    by_layer: dict[Layer, list[tuple[LoraFactors, float]]] = {}
    for lora, scale in loras:
        for layer, factors in lora.items():
            by_layer.setdefault(layer, []).append((factors, scale))
    return by_layer
