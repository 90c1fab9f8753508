"""The algorithms of LoRA files: low rank (LoRA, LoCon), LoHa, LoKr and full differences, each also with DoRA's magnitudes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Factors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class LayerUpdate:
    """The changes that a LoRA makes to one layer at scale 1.

    Attributes:
        algorithm: A key of `ALGORITHMS`; empty if only the bias changes.
        factors: The tensors that the algorithm combines, by their part of the name: `down`, `hada_w1_a`.
        scaling: Factor of the combined difference.
        magnitude: DoRA's magnitude of each output or input channel, shaped to broadcast over the weight.
        bias: The difference of the bias.
    """

    algorithm: str
    factors: Factors
    scaling: float = 1.0
    magnitude: Tensor | None = None
    bias: Tensor | None = None

    def tensors(self) -> Iterator[Tensor]:
        """All tensors of the update."""
        yield from self.factors.values()
        yield from (tensor for tensor in (self.magnitude, self.bias) if tensor is not None)

    def weight_difference(self, weight: Tensor) -> Tensor:
        """Returns the difference of a weight, in float32 on its device.

        Args:
            weight: The layer's weight in float32. Only DoRA depends on its values.
        """
        factors = {part: to_float32(tensor, weight.device) for part, tensor in self.factors.items()}
        difference = ALGORITHMS[self.algorithm](factors).reshape(weight.shape) * self.scaling
        return difference if self.magnitude is None else _decomposed(weight, difference, self.magnitude) - weight


def to_float32(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor of a LoRA in float32 on a device, without waiting for the device: a LoRA has thousands.

    The tensor, which must not change afterwards, is sent as it is stored and converted there.
    """
    return tensor.to(device, non_blocking=True).to(torch.float32)


def update_shape(algorithm: str, factors: Factors) -> torch.Size:
    """Returns the shape that an algorithm yields, without computing it.

    Raises:
        RuntimeError, IndexError, ValueError: The factors do not fit together.
    """
    return ALGORITHMS[algorithm]({part: tensor.to("meta", torch.float32) for part, tensor in factors.items()}).shape


def update_rank(factors: Factors) -> int | None:
    """Returns the rank that alpha is divided by; None where no factor is decomposed, and alpha has no effect."""
    named = (factors[part] for part in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if part in factors)
    return next((tensor.shape[0] for tensor in named if tensor.ndim), None)


def _low_rank(factors: Factors) -> Tensor:
    up, down = factors["up"].flatten(1), factors["down"].flatten(1)
    return torch.einsum("oa,ab...,bi->oi...", up, factors["mid"], down) if "mid" in factors else up @ down


def _loha(factors: Factors) -> Tensor:
    return _loha_half(factors, 1) * _loha_half(factors, 2)


def _loha_half(factors: Factors, half: int) -> Tensor:
    first, second, core = factors[f"hada_w{half}_a"], factors[f"hada_w{half}_b"], factors.get(f"hada_t{half}")
    return first @ second.flatten(1) if core is None else _tucker(core, first, second)


def _lokr(factors: Factors) -> Tensor:
    small, large = (_lokr_part(factors, index) for index in (1, 2))
    return torch.kron(small.reshape(*small.shape, *[1] * (large.ndim - small.ndim)), large.contiguous())


def _lokr_part(factors: Factors, index: int) -> Tensor:
    if (whole := factors.get(f"lokr_w{index}")) is not None:
        return whole
    first, second, core = factors[f"lokr_w{index}_a"], factors[f"lokr_w{index}_b"], factors.get(f"lokr_t{index}")
    return first @ second.flatten(1) if core is None else _tucker(core, first, second)


def _tucker(core: Tensor, output: Tensor, inner: Tensor) -> Tensor:
    """A Tucker decomposition as LyCORIS stores it: a core of rank × rank × kernel, and factors of rank × channels."""
    return torch.einsum("ij...,ip,jr->pr...", core, output, inner)


def _decomposed(weight: Tensor, difference: Tensor, magnitude: Tensor) -> Tensor:
    """The weight that DoRA describes (arXiv 2402.09353): the changed direction, with the stored magnitude of each channel."""
    changed = weight + difference
    reduced = tuple(axis for axis in range(weight.ndim) if magnitude.shape[axis] == 1)
    norm = torch.linalg.vector_norm(changed, dim=reduced, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    decomposed: Tensor = changed * (to_float32(magnitude, weight.device) / norm)
    return decomposed


ALGORITHMS: Mapping[str, Callable[[Factors], Tensor]] = {
    "LoRA": _low_rank,
    "LoHa": _loha,
    "LoKr": _lokr,
    "full difference": lambda factors: factors["diff"],
}
"""The difference of a weight from the factors, by the name that messages use."""
