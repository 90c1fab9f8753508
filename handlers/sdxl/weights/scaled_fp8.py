"""Weights in 8-bit floats with a scale, as ComfyUI stores them: the weight is the stored value times the scale."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

SCALES = ("scale_weight", "weight_scale")
"""The names of the scale of a layer's weight, in the older and the newer format."""

COMPANIONS = re.compile(r"(?:^|\.)(?:scaled_fp8|scale_weight|weight_scale|scale_input|input_scale|comfy_quant)$")
"""Tensors that belong to scaled weights. The scales of inputs serve 8-bit matrix products only, which this worker does not use."""

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def unscaled(opened: Any, name: str, stored: Tensor, rows: slice | None = None) -> Tensor:
    """Returns the values of a weight that may be scaled.

    Args:
        opened: The open file.
        name: The tensor's name in it.
        stored: Its content.
        rows: The rows that `stored` is a part of; None: all.

    Raises:
        ValueError: It is stored in integers, or its scale does not fit.
    """
    if not stored.is_floating_point():
        raise ValueError(f"the tensor {name!r} is stored as {stored.dtype}, a quantisation that is not supported".replace("torch.", ""))
    layer = name.removesuffix(".weight")
    keys = opened.keys() if stored.dtype in _FLOAT8 else ()
    scale_name = next((key for suffix in SCALES if (key := f"{layer}.{suffix}") in keys), None)
    if scale_name is None:
        return stored
    scale: Tensor = opened.get_tensor(scale_name).float().flatten()
    if scale.numel() > 1 and rows is not None:
        scale = scale[rows]
    if scale.numel() not in (1, stored.shape[0]):
        raise ValueError(f"the scale {scale_name!r} has another size than its weight")
    return stored.float() * scale.reshape(-1, *[1] * (stored.ndim - 1))
