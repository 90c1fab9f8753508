"""Computes what SDXL's networks work with beside their weights: `python -m benchmarks.sdxl_memory`.

The networks have their published forms and no numbers. Each is called once; from the sizes of the tensors that its operations make, and
from when Python lets them go, follow the most bytes that are alive at once. Attention is counted as the fused kernels do it, without the
matrix of all pairs. What the libraries of a GPU take for themselves is not in it. `handlers/sdxl/memory.py` has the results.
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
"""Of the latents: pictures of 1024 × 1024."""

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
"""How the published refiner's UNet is made (stabilityai/stable-diffusion-xl-refiner-1.0, unet/config.json)."""


class _Fused(TorchFunctionMode):
    """Attention whose only memory is its result."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0] if args else kwargs["query"])
        return func(*args, **(kwargs or {}))


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is typed in part
    """Counts bytes that operations have made and nobody has let go."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: weakref.WeakSet[Any] = weakref.WeakSet(tensor.untyped_storage() for tensor in known)
        self._now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                self._now += storage.nbytes()
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._let_go, storage.nbytes())
        return made

    def _let_go(self, size: int) -> None:
        self._now -= size


def alive(network: Any, call: Callable[[], object]) -> int:
    """The most bytes that a call has alive at once, the network's weights apart."""
    watched = _Alive(network.parameters())
    with torch.no_grad(), _Fused(), watched:
        call()
    return watched.peak


def bytes_per_latent_pixel() -> dict[str, float]:
    """What each network needs per picture and per value of one of the latents' channels, in half precision.

    Returns:
        `unet`, `refiner` and `controlnet` for one sample, of which guidance needs two; `decode` and `encode` for one picture.
    """
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    half = torch.float16
    with torch.device("meta"):
        config = UNet2DConditionModel.load_config(PUBLISHED_CONFIG / "unet")
        unet = UNet2DConditionModel.from_config(config).to(half).eval()
        networks = {"unet": unet, "refiner": UNet2DConditionModel(**REFINER).to(half).eval()}
        networks["controlnet"] = ControlNetModel.from_unet(unet, load_weights_from_unet=False).to(half).eval()
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(PUBLISHED_CONFIG / "vae")).to(half).eval()
        latents, picture = torch.empty(1, 4, SIDE, SIDE, dtype=half), torch.empty(1, 3, 8 * SIDE, 8 * SIDE, dtype=half)
        peaks = {
            # The difference of two batches, so that what does not grow with them is left out.
            name: alive(network, partial(denoise, network, 3)) - alive(network, partial(denoise, network, 2))
            for name, network in networks.items()
        }
        peaks |= {"decode": alive(vae, lambda: vae.decode(latents)), "encode": alive(vae, lambda: vae.encode(picture))}
    return {name: peak / SIDE**2 for name, peak in peaks.items()}


def denoise(network: Any, batch: int) -> object:
    """One call of a UNet or a ControlNet for latents of `SIDE`."""
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
