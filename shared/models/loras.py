"""LoRAs, merged into a model's weights for one job.

While it runs, the layers have other weights: new tensors, so that the original ones are put back as they are, to the bit. A step then costs
what it costs without LoRAs. The files stay in memory, within the shelf's bound, so that a switch reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shared.models.lora_files import Factors, Layer, Lora, Target, read_lora, size_of
from shared.weights.addons import Shelf


class Chosen(Protocol):
    """One LoRA of a request, by name, and how strongly it acts."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def scale(self) -> float: ...  # noqa: D102


@contextmanager
def with_loras(target: Target, chosen: Sequence[Chosen], shelf: Shelf) -> Iterator[dict[str, float]]:
    """Merges LoRAs into a model, while the body runs. Of one that is named twice the scales add up.

    Yields:
        The names and their scales, as they act.

    Raises:
        ModelUnavailable: One cannot be used. Nothing has been changed then.
    """
    scales: dict[str, float] = {}
    for lora in chosen:
        scales[lora.name] = scales.get(lora.name, 0.0) + lora.scale
    # One with scale 0 is read too, so that it is refused if it cannot be used.
    read = [(shelf.load("loras", name, lambda path: read_lora(path, target), size_of), scale) for name, scale in scales.items()]
    with merged(target, [(lora, scale) for lora, scale in read if scale]):
        yield scales


@contextmanager
def merged(target: Target, loras: Sequence[tuple[Lora, float]]) -> Iterator[None]:
    """Gives layers the weights that they have with LoRAs, while the body runs.

    On a GPU this takes as much memory as the layers that the LoRAs change, at most the linear layers a second time.

    Args:
        target: The model: all pipelines that share its networks have the LoRAs.
        loras: Each with its scale.
    """
    originals: dict[nn.Module, Any] = {}
    try:
        for layer, parts in _by_layer(loras).items():
            modules: Sequence[Any] = target.layers[layer]
            weight = nn.Parameter(merged_weight(modules[0].weight, parts), requires_grad=False)
            for module in modules:
                originals[module] = module.weight
                module.weight = weight
        yield
    finally:
        for module, weight in originals.items():
            module.weight = weight


def merged_weight(weight: Tensor, parts: list[tuple[Factors, float]]) -> Tensor:
    """A weight with what LoRAs add to it, computed in float32 and rounded once.

    Args:
        weight: Of a linear or a convolutional layer.
        parts: What each LoRA adds, and its scale.

    Returns:
        Of the shape, the precision and on the device of `weight`.
    """
    total = weight.to(torch.float32, copy=True).flatten(1)
    for factors, scale in parts:
        up, down = (factor.to(weight.device, torch.float32) for factor in (factors.up, factors.down))
        total.addmm_(up, down, alpha=factors.strength * scale)
    return total.reshape(weight.shape).to(weight.dtype)


def _by_layer(loras: Sequence[tuple[Lora, float]]) -> Mapping[Layer, list[tuple[Factors, float]]]:
    parts: dict[Layer, list[tuple[Factors, float]]] = {}
    for lora, scale in loras:
        for layer, factors in lora.items():
            parts.setdefault(layer, []).append((factors, scale))
    return parts
