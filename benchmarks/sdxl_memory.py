"""Computes the peak activation memory of SDXL's networks without a GPU: `python -m benchmarks.sdxl_memory`.

The published architectures are instantiated on the meta device and called once while every tensor allocation and deallocation is tracked;
the result is the largest number of bytes alive at once, weights excluded. Attention is counted as in fused kernels, without the score
matrix. Memory that GPU libraries reserve for themselves is not included. `handlers/sdxl/memory.py` contains the results.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from handlers.sdxl.weights.checkpoint import PUBLISHED_CONFIG

SIDE = 128
"""Side of the latents: images of 1024 × 1024."""

REFINER: Mapping[str, Any] = {
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2560,
    "use_linear_projection": True,
}
"""The published refiner's UNet configuration (stabilityai/stable-diffusion-xl-refiner-1.0, unet/config.json)."""


class _FusedAttention(TorchFunctionMode):
    """Replaces attention by its output tensor, the only memory that a fused kernel allocates."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0] if args else kwargs["query"])
        return func(*args, **(kwargs or {}))


class _AllocationTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is partly typed
    """Tracks the bytes of all tensors that operations have allocated and that are still referenced."""

    def __init__(self, excluded: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet(tensor.untyped_storage() for tensor in excluded)
        self._current = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self._current += storage.nbytes()
                self.peak = max(self.peak, self._current)
                weakref.finalize(storage, self._free, storage.nbytes())
        return result

    def _free(self, size: int) -> None:
        self._current -= size


def peak_bytes(network: Any, call: Callable[[], object]) -> int:
    """Returns the peak bytes that a call allocates, the network's weights excluded."""
    tracker = _AllocationTracker(network.parameters())
    with torch.no_grad(), _FusedAttention(), tracker:
        call()
    return tracker.peak


def bytes_per_latent_pixel() -> dict[str, float]:
    """Returns each network's peak activation memory per sample and latent pixel, in half precision.

    Returns:
        `unet`, `refiner` and `controlnet` for one sample (classifier-free guidance needs two); `decode` and `encode` for one image.
    """
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    half = torch.float16
    with torch.device("meta"):
        config = UNet2DConditionModel.load_config(PUBLISHED_CONFIG / "unet")
        unet = UNet2DConditionModel.from_config(config).to(half).eval()
        networks = {"unet": unet, "refiner": UNet2DConditionModel(**REFINER).to(half).eval()}
        networks["controlnet"] = ControlNetModel.from_unet(unet, load_weights_from_unet=False).to(half).eval()
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(PUBLISHED_CONFIG / "vae")).to(half).eval()
        latents, image = torch.empty(1, 4, SIDE, SIDE, dtype=half), torch.empty(1, 3, 8 * SIDE, 8 * SIDE, dtype=half)
        peaks = {
            # The difference between two batch sizes excludes what does not grow with the batch.
            name: peak_bytes(network, partial(denoise, network, 3)) - peak_bytes(network, partial(denoise, network, 2))
            for name, network in networks.items()
        }
        peaks |= {"decode": peak_bytes(vae, lambda: vae.decode(latents)), "encode": peak_bytes(vae, lambda: vae.encode(image))}
    return {name: peak / SIDE**2 for name, peak in peaks.items()}


def denoise(network: Any, batch: int) -> object:
    """Calls a UNet or a ControlNet once with latents of `SIDE` × `SIDE`."""
    config, half = network.config, torch.float16
    pooled = 1280
    times = (config.projection_class_embeddings_input_dim - pooled) // config.addition_time_embed_dim
    latents = torch.empty(batch, 4, SIDE, SIDE, dtype=half)
    text = torch.empty(batch, 77, config.cross_attention_dim, dtype=half)
    added = {"text_embeds": torch.empty(batch, pooled, dtype=half), "time_ids": torch.empty(batch, times, dtype=half)}
    hint = (
        {"controlnet_cond": torch.empty(batch, 3, 8 * SIDE, 8 * SIDE, dtype=half)} if hasattr(network, "controlnet_cond_embedding") else {}
    )
    return network(latents, torch.tensor(1), encoder_hidden_states=text, added_cond_kwargs=added, **hint)


def main() -> None:
    """Prints a table."""
    for name, size in bytes_per_latent_pixel().items():
        print(f"{name:<12}{size:10.0f} bytes per latent pixel in half precision: {size * SIDE**2 / 1e6:6.0f} MB at 1024 × 1024")


if __name__ == "__main__":
    main()
