"""Half precision for the decoders of SDXL's VAEs, most of which overflow float16 with the weights that they are published with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shared.models.persistent_tensors import ordinary_tensors

# Leaves a factor of 65 below the largest float16. Smaller activations would gain nothing, and the weights would lose bits: float16 has
# fewer of them below 6e-5.
_TARGET = 1000.0
_LATENT_SIDE = 32  # of the latents that the activations are measured with; their sizes do not depend on it


def use_half_precision_decoder(vae: Any) -> None:
    """Casts the decoder of a float32 `AutoencoderKL` to float16, scaled so that nothing overflows. The encoder remains in float32.

    A decoder that is not finite in float32 is left as it is.
    """
    with ordinary_tensors():
        peak = largest_activation(vae)
        if math.isfinite(peak):
            scale_activations(vae.decoder, 2.0 ** -max(0, math.ceil(math.log2(peak / _TARGET))))
            _cast_decoder(vae, torch.float16)


@contextmanager
def upcast_decoder(vae: Any) -> Iterator[None]:
    """Decodes in float32 while the body runs. The weights are the same before and after, since float32 has every half-precision value."""
    before = vae.decoder.conv_in.weight.dtype
    with ordinary_tensors():
        _cast_decoder(vae, torch.float32)
    try:
        yield
    finally:
        with ordinary_tensors():
            _cast_decoder(vae, before)


def scale_activations(decoder: Any, scale: float) -> None:
    """Multiplies a decoder's activations by a power of two; the images remain the same, in float32 to the bit.

    Every residual branch begins with a group normalisation, which removes the scale of its input, so the weights that write to the residual
    stream determine the size of all activations. A layer that passes the stream on is linear: only its bias is scaled. The epsilon of a
    normalisation is added to a variance, and is scaled by the square.

    Args:
        decoder: Of an `AutoencoderKL`.
        scale: A power of two, because multiplying by it rounds nothing.
    """
    _scale(decoder.conv_in, scale)
    for module in decoder.modules():
        match type(module).__name__:
            case "ResnetBlock2D":
                _scale(module.conv1, scale)
                _scale(module.conv2, scale)
                if module.conv_shortcut is not None:
                    _scale(module.conv_shortcut, scale, bias_only=True)
            case "Attention":
                _scale(module.to_out[0], scale)
            case "Upsample2D":
                _scale(module.conv, scale, bias_only=True)
            case "GroupNorm":
                module.eps *= scale**2


def largest_activation(vae: Any) -> float:
    """Returns the largest absolute output of a decoder's layers for latents of the distribution that SDXL is trained on."""
    peaks: list[Tensor] = []

    def record(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        peaks.append(output.abs().amax())

    hooks = [module.register_forward_hook(record) for module in vae.decoder.modules()]
    noise = torch.randn(1, vae.config.latent_channels, _LATENT_SIDE, _LATENT_SIDE, generator=torch.Generator().manual_seed(0))
    try:
        vae.decode(noise.to(vae.device, vae.decoder.conv_in.weight.dtype) / vae.config.scaling_factor)
    finally:
        for hook in hooks:
            hook.remove()
    return float(torch.stack(peaks).max())


def _scale(layer: Any, scale: float, *, bias_only: bool = False) -> None:
    if not bias_only:
        layer.weight.mul_(scale)
    if layer.bias is not None:
        layer.bias.mul_(scale)


def _cast_decoder(vae: Any, dtype: torch.dtype) -> None:
    vae.decoder.to(dtype)
    if vae.post_quant_conv is not None:
        vae.post_quant_conv.to(dtype)
