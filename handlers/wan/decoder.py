"""WAN's VAE decoder with fewer passes over memory, on the weights of diffusers' decoder, which stays as it is.

Beside the convolutions, diffusers' decoder is bound by memory traffic: each causal convolution's input is concatenated with past frames
and then padded, each norm takes six passes. Here activations are written once, behind the past frames, where the convolution reads
them, and the convolution pads height and width itself. SGLang does the same (sgl-project/sglang #34125, #38020).

In float32 every frame equals diffusers', bit for bit. In float16 the layout is channels last, which cuDNN's kernels take without a
conversion and in which a norm is one kernel; 8-bit pixels differ from float32's by one level at most.

For 81 frames of 480 × 832 that is 0.75 TB read and written between the convolutions in place of diffusers' 3.4, and 2.5 in float32
(`benchmarks/wan_decoder.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-24  # the square of the least norm that `functional.normalize` divides by


class StreamingDecoder:
    """Decodes latent frames one at a time, in order: the first to one frame, each other one to four.

    Args:
        decoder: diffusers' `WanDecoder3d` of WAN 2.1.
        dtype: Float32, or float16 for a decoding in half precision, for which the weights are copied.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        self._decoder = decoder
        self._dtype = dtype
        self._weights: dict[Any, tuple[Tensor, Tensor]] = {}
        self._past: dict[Any, Tensor] = {}
        self._is_first = True

    def decode(self, latent: Tensor) -> Tensor:
        """Decodes the next latent frame.

        Args:
            latent: 1 × channels × 1 × height/8 × width/8.

        Returns:
            1 × 3 × frames × height × width; about -1 … 1.
        """
        # Through the module's call, so that hooks of the decoder run.
        self._decoder.forward = self._forward
        try:
            decoded: Tensor = self._decoder(latent)
        finally:
            del self._decoder.forward
        return decoded

    def _forward(self, latent: Tensor) -> Tensor:
        hidden = self._causal(self._decoder.conv_in, latent)
        middle = self._decoder.mid_block
        hidden = self._residual(middle.resnets[0], hidden)
        for attention, residual in zip(middle.attentions, middle.resnets[1:], strict=True):
            hidden = self._residual(residual, self._attention(attention, hidden))
        for block in self._decoder.up_blocks:
            for residual in block.resnets:
                hidden = self._residual(residual, hidden)
            for upsampler in block.upsamplers or ():
                hidden = self._upsample(upsampler, hidden)
        self._is_first = False
        return self._activated(self._decoder.norm_out, self._decoder.conv_out, hidden)

    def _residual(self, block: Any, hidden: Tensor) -> Tensor:
        shortcut = self._pointwise(block.conv_shortcut, hidden) if hasattr(block.conv_shortcut, "weight") else hidden
        hidden = self._activated(block.norm1, block.conv1, hidden)
        return self._activated(block.norm2, block.conv2, hidden).add_(shortcut)

    def _activated(self, norm: Any, conv: Any, hidden: Tensor) -> Tensor:
        """A norm, SiLU and a causal convolution."""
        normed = self._normalized(norm, hidden)
        frames = self._behind_past(conv, hidden)
        present = frames[:, :, -hidden.shape[2] :]
        if self._dtype == torch.float32:
            # A kernel that writes parts of a tensor rounds the ends of each differently on a CPU.
            present.copy_(functional.silu(normed, inplace=True))
        else:
            torch.ops.aten.silu.out(normed, out=present)
        del normed
        return self._convolved(conv, frames)

    def _causal(self, conv: Any, hidden: Tensor) -> Tensor:
        frames = self._behind_past(conv, hidden)
        frames[:, :, -hidden.shape[2] :] = hidden
        return self._convolved(conv, frames)

    def _behind_past(self, conv: Any, hidden: Tensor) -> Tensor:
        """A tensor for a convolution's input, of which the past frames are set: zeros, or the last ones of the call before."""
        past, (batch, _, frames, height, width) = conv.kernel_size[0] - 1, hidden.shape
        made = self._empty(batch, conv.in_channels, past + frames, height, width, device=hidden.device)
        made[:, :, :past] = self._past.pop(conv, 0.0)
        return made

    def _convolved(self, conv: Any, frames: Tensor) -> Tensor:
        past, *sides = conv.kernel_size
        self._past[conv] = frames[:, :, -(past - 1) :].clone()
        weight, bias = self._parameters(conv)
        return functional.conv3d(frames, weight, bias, padding=(0, *(side // 2 for side in sides)))

    def _pointwise(self, conv: Any, hidden: Tensor) -> Tensor:
        return functional.conv3d(hidden, *self._parameters(conv))

    def _normalized(self, norm: Any, hidden: Tensor) -> Tensor:
        """RMS norm over the channels: hidden / ‖hidden‖ · √channels · gamma."""
        if self._dtype == torch.float32:
            return functional.normalize(hidden, dim=1).mul_(norm.scale).mul_(norm.gamma)
        gamma = norm.gamma.flatten().to(self._dtype)
        return functional.rms_norm(hidden.movedim(1, -1), gamma.shape, gamma, _EPSILON / len(gamma)).movedim(-1, 1)

    def _attention(self, block: Any, hidden: Tensor) -> Tensor:
        """Self-attention within each frame, by one head."""
        frames = hidden[0].transpose(0, 1)
        projected = functional.conv2d(self._normalized(block.norm, frames), *self._parameters(block.to_qkv))
        query, key, value = projected.flatten(2).transpose(1, 2)[:, None].contiguous().chunk(3, dim=-1)
        attended = functional.scaled_dot_product_attention(query, key, value)[:, 0].transpose(1, 2).reshape(frames.shape)
        return functional.conv2d(attended, *self._parameters(block.proj)).transpose(0, 1)[None] + hidden

    def _upsample(self, block: Any, hidden: Tensor) -> Tensor:
        """Doubles height and width, and the number of frames where the block does, except for the first latent frame."""
        if block.mode == "upsample3d" and not self._is_first:
            hidden = self._interleaved(self._causal(block.time_conv, hidden))
        frames = functional.interpolate(hidden[0].transpose(0, 1), scale_factor=2.0, mode="nearest-exact")
        convolved = functional.conv2d(frames, *self._parameters(block.resample[1]), padding=1)
        return convolved.transpose(0, 1)[None]

    def _interleaved(self, pairs: Tensor) -> Tensor:
        """Two frames from each one, which lie one after the other in its channels."""
        batch, channels, frames, height, width = pairs.shape
        made = self._empty(batch, channels // 2, 2 * frames, height, width, device=pairs.device)
        made[:, :, 0::2], made[:, :, 1::2] = pairs.chunk(2, dim=1)
        return made

    def _empty(self, *shape: int, device: torch.device) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=device, memory_format=self._layout(len(shape)))

    def _parameters(self, conv: Any) -> tuple[Tensor, Tensor]:
        """A convolution's weight and bias in the precision and the layout of the decoding."""
        if conv not in self._weights:
            weight, bias = conv.weight.to(self._dtype), conv.bias.to(self._dtype)
            self._weights[conv] = (weight.contiguous(memory_format=self._layout(weight.dim())), bias)
        return self._weights[conv]

    def _layout(self, dimensions: int) -> torch.memory_format:
        if self._dtype == torch.float32:
            return torch.contiguous_format
        return torch.channels_last_3d if dimensions == 5 else torch.channels_last
