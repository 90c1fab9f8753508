"""LoRAs, merged into the weights for one job.

While it runs, the layers have other weights: new tensors, so that the original ones are put back as they are, to the bit. A step then costs
what it costs without LoRAs. The files stay in memory, within the shelf's bound, so that a switch reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from handlers.sdxl.lora_files import Factors, Layer, Lora, layers, read_lora, size_of
from shared.contract.sdxl import SdxlRequest
from shared.weights.shelf import Shelf

if TYPE_CHECKING:
    from handlers.sdxl.stage import Stage


def accept(request: SdxlRequest, shelf: Shelf) -> None:
    """Refuses a request whose LoRAs are not on the shelf.

    Raises:
        ModelUnavailable: It names the field and what there is.
    """
    for lora in request.loras:
        shelf.find("loras", lora.name)


@contextmanager
def attached(stage: Stage, request: SdxlRequest, references: Mapping[str, Image.Image], shelf: Shelf) -> Iterator[None]:
    """Merges the request's LoRAs into the networks of the stage, while the body runs. Of one that is named twice the scales add up.

    Raises:
        ModelUnavailable: One cannot be used. Nothing has been changed then.
    """
    scales: dict[str, float] = {}
    for lora in request.loras:
        scales[lora.name] = scales.get(lora.name, 0.0) + lora.scale
    # One with scale 0 is read too, so that it is refused if it cannot be used.
    read = [(shelf.load("loras", name, lambda path: read_lora(path, stage.pipeline), size_of), scale) for name, scale in scales.items()]
    if scales:
        stage.notes["loras"] = [{"name": name, "scale": scale} for name, scale in scales.items()]
    with merged(stage.pipeline, [(lora, scale) for lora, scale in read if scale]):
        yield


@contextmanager
def merged(pipeline: Any, loras: Sequence[tuple[Lora, float]]) -> Iterator[None]:
    """Gives layers the weights that they have with LoRAs, while the body runs.

    On a GPU this takes as much memory as the layers that the LoRAs change, at most a second UNet's linear layers.

    Args:
        pipeline: Any SDXL pipeline: all that share its networks have the LoRAs.
        loras: Each with its scale.
    """
    known = layers(pipeline)
    originals: dict[nn.Module, Any] = {}
    try:
        for layer, parts in _by_layer(loras).items():
            module: Any = known[layer]
            originals[module] = module.weight
            module.weight = nn.Parameter(merged_weight(module.weight, parts), requires_grad=False)
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
