"""Linear layers for inference: several projections of one input joined, weights in the layout of the device's kernels, and an operation
on the output in the same kernel where there is one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class FusedLinear(nn.Module):
    """One or more linear layers of the same input, as one matrix product. Its outputs are theirs, in their order.

    This implementation runs anywhere; `PackedLinear` is the faster one for CPUs.

    Args:
        layers: The layers. They may be discarded afterwards.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(layers[0].weight if len(layers) == 1 else torch.cat([each.weight for each in layers]), False)
        self.bias = _joined_bias(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the outputs."""
        return functional.linear(x, self.weight, self.bias)

    def silu(self, x: Tensor) -> Tensor:
        """Returns the activations of the outputs, x · sigmoid(x)."""
        return functional.silu(self.forward(x))

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """Returns the outputs, each multiplied by an element of `factor`."""
        return self.forward(x) * factor

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Returns the outputs, each added to an element of `residual`."""
        return residual + self.forward(x)


class PackedLinear(FusedLinear):
    """The same on a CPU, with the weight in oneDNN's blocked layout.

    A product of few rows takes as long as it takes to read the weight, and in this layout it is read in order. The product of a row then
    does not depend on the number of rows either, bit for bit, other than with plain weights, where each number has another kernel. Only a
    single row may be summed in another order; if so, it is computed twice.

    Args:
        layers: The layers, with weights on the CPU.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__(layers)
        weight = self.weight.detach()
        self._outputs = len(weight)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        del self.weight
        self._pairs_single_rows = False
        self._pairs_single_rows = self._single_row_differs(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the outputs."""
        return self._product(x, "none")

    def silu(self, x: Tensor) -> Tensor:
        """Returns the activations of the outputs, x · sigmoid(x)."""
        return self._product(x, "swish")

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """Returns the outputs, each multiplied by an element of `factor`."""
        return self._binary_product(x, factor, "mul")

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Returns the outputs, each added to an element of `residual`."""
        return self._binary_product(x, residual, "add")

    def _product(self, x: Tensor, activation: str) -> Tensor:
        rows = self._rows(x)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, activation, [], "")
        return out if rows is x else out[:1].view(*x.shape[:-1], self._outputs)

    def _binary_product(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        rows = self._rows(x)
        others = other if rows is x else other.reshape(1, -1).expand(2, -1).contiguous()
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, others, self._packed, self.bias, operation)
        return out if rows is x else out[:1].view(*x.shape[:-1], self._outputs)

    def _rows(self, x: Tensor) -> Tensor:
        """Returns `x`, or a single row twice."""
        if not self._pairs_single_rows or x.numel() != x.shape[-1]:
            return x
        return x.reshape(1, -1).expand(2, -1).contiguous()

    def _single_row_differs(self, weight: Tensor) -> bool:
        pair = torch.linspace(-1, 1, 2 * weight.shape[1], dtype=weight.dtype).sin().view(2, -1)
        return not torch.equal(self.forward(pair[:1])[0], self.forward(pair)[0])


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this CPU has kernels for packed weights of a precision."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


def _joined_bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    biases = [each.bias.detach() for each in layers if each.bias is not None]
    if not biases:
        return None
    if len(biases) != len(layers):
        raise ValueError("either all layers have a bias, or none")
    return torch.cat(biases)
