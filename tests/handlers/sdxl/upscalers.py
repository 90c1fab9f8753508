"""Small upscalers with random weights, of several architectures and naming schemes, made by spandrel's own classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from handlers.sdxl.postprocess.architectures import spandrel
from shared.media.images import Pixels

_WINDOWS = {"img_size": 64, "window_size": 8, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2]}
_HAT = {"compress_ratio": 3, "squeeze_factor": 6}
_DAT = {"img_size": 64, "embed_dim": 64, "depth": [2, 2], "num_heads": [2, 2], "split_size": [8, 16]}


def build_network(architecture: str, **hyperparameters: Any) -> nn.Module:
    """Builds a network with random weights.

    Args:
        architecture: spandrel's name.
        hyperparameters: Those of its class.
    """
    spandrel()
    cls = getattr(import_module(f"spandrel.architectures.{architecture}"), architecture)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network: nn.Module = cls(**hyperparameters)
    return network.eval().requires_grad_(False)


def esrgan(scale: int = 4, *, blocks: int = 2, width: int = 8, unshuffle: bool = False) -> nn.Module:
    """An ESRGAN, under the names of its first release; with `unshuffle` Real-ESRGAN's for a factor of two."""
    shuffle = {"in_nc": 12, "shuffle_factor": 2} if unshuffle else {}
    return build_network("ESRGAN", scale=4 if unshuffle else scale, num_blocks=blocks, num_filters=width, **shuffle)


ARCHITECTURES: Mapping[str, Callable[[], nn.Module]] = {
    "ESRGAN": esrgan,
    "Compact": lambda: build_network("Compact", num_feat=16, num_conv=4, upscale=4),
    "SPAN": lambda: build_network("SPAN", num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2),
    "SwinIR": lambda: build_network("SwinIR", upscale=4, upsampler="nearest+conv", **_WINDOWS),
    "HAT": lambda: build_network("HAT", upscale=4, upsampler="pixelshuffle", **_WINDOWS, **_HAT),
    "DAT": lambda: build_network("DAT", upscale=2, upsampler="pixelshuffle", **_DAT),
}
"""By spandrel's names."""


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors under the names that its class has."""
    return {name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}


def write_upscaler(path: Path, network: nn.Module | Mapping[str, Tensor]) -> None:
    """Writes an upscaler."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors_of(network) if isinstance(network, nn.Module) else dict(network), path)


def basicsr_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ESRGAN's tensors under the names of BasicSR, with which Real-ESRGAN was published, instead of `model.0.weight` and so on."""
    last = max(int(name.split(".")[1]) for name in tensors)
    blocks = 1 + max(int(name.split(".")[3]) for name in tensors if ".RDB" in name)
    ends = {"0": "conv_first", f"{last}": "conv_last", f"{last - 2}": "conv_hr"}
    ups = {f"{3 * index}": f"conv_up{index}" for index in range(1, (last - 4) // 3 + 1)}

    def renamed(name: str) -> str:
        name = re.sub(r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3.", name)
        name = re.sub(rf"^model\.1\.sub\.{blocks}\.", "conv_body.", name)
        return re.sub(r"^model\.(\d+)\.", lambda found: {**ups, **ends}[found[1]] + ".", name)

    return {renamed(name): tensor for name, tensor in tensors.items()}


def nothing() -> None:
    """A check for cancellation in a job that is not cancelled."""


def whole(pixels: Pixels, network: nn.Module) -> Pixels:
    """An image upscaled without tiles, by the architecture called directly."""
    with torch.inference_mode():
        made = network(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)[0]
    enlarged: Pixels = (made.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return enlarged
