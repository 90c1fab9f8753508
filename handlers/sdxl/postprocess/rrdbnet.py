"""RRDBNet, the network of ESRGAN (arXiv 1809.00219) and Real-ESRGAN (arXiv 2107.10833): residual-in-residual dense blocks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from shared.models.load import check_network, log_loaded
from shared.weights.errors import WeightsError, weights_error

_RESIDUAL_SCALE = 0.2
_LEAKY_SLOPE = 0.2


class _DenseBlock(nn.Module):
    """Five convolutions, each over the concatenated outputs of all preceding ones."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for index in range(5):
            channels = growth if index < 4 else width
            self.add_module(f"conv{index + 1}", nn.Conv2d(width + index * growth, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        features = x
        *first, last = self.children()
        for convolution in first:
            features = torch.cat((features, functional.leaky_relu(convolution(features), _LEAKY_SLOPE)), 1)
        residual: Tensor = last(features)
        return x + _RESIDUAL_SCALE * residual


class _ResidualBlock(nn.Module):
    """Three dense blocks."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_DenseBlock(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + _RESIDUAL_SCALE * residual


@dataclass(frozen=True)
class RRDBNetConfig:
    """The network's hyperparameters.

    Attributes:
        factor: The upscaling factor: 2 or 4. The network always upscales four times; for 2 it first unshuffles 2 × 2 pixels into channels.
        width: Channels.
        growth: Channels that each convolution of a dense block adds.
        blocks: Residual blocks: 23 as published, 6 in the smaller ones.
    """

    factor: int
    width: int = 64
    growth: int = 32
    blocks: int = 23

    @property
    def unshuffle(self) -> int:
        """The downscale factor of the pixel unshuffle at the input."""
        return 4 // self.factor


class RRDBNet(nn.Module):
    """Upscales images. Its tensors have BasicSR's names, with which the published weights were trained.

    Args:
        config: The hyperparameters.
    """

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.conv_first = nn.Conv2d(3 * config.unshuffle**2, width, 3, padding=1)
        self.body = nn.Sequential(*(_ResidualBlock(width, config.growth) for _ in range(config.blocks)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """N × 3 × height × width in 0 … 1 → N × 3 × factor·height × factor·width, with slight overshoot beyond 0 … 1.

        Height and width must be multiples of `config.unshuffle`.
        """
        features = self.conv_first(functional.pixel_unshuffle(images, self.config.unshuffle))
        features = features + self.conv_body(self.body(features))
        for convolution in (self.conv_up1, self.conv_up2):
            features = functional.leaky_relu(convolution(functional.interpolate(features, scale_factor=2, mode="nearest")), _LEAKY_SLOPE)
        upscaled: Tensor = self.conv_last(functional.leaky_relu(self.conv_hr(features), _LEAKY_SLOPE))
        return upscaled


def read_config(file: Path) -> RRDBNetConfig:
    """Derives the hyperparameters from the tensor shapes in a file, without reading the weights.

    Args:
        file: A `.safetensors` file with BasicSR's names.

    Raises:
        WeightsError: The file holds no such network.
    """
    name = f"upscalers/{file.stem}"
    try:
        with safe_open(file, "pt") as opened:
            keys = set(opened.keys())
            width, channels, *_ = opened.get_slice("conv_first.weight").get_shape()
            growth = opened.get_slice("body.0.rdb1.conv1.weight").get_shape()[0]
    except (OSError, ValueError, IndexError, SafetensorError) as error:
        raise weights_error(name, error) from error
    blocks = len({key.split(".")[1] for key in keys if key.startswith("body.")})
    if channels not in (3, 12):
        raise WeightsError(name, "its factor is neither two nor four")
    return RRDBNetConfig(4 if channels == 3 else 2, width, growth, blocks)


def load_upscaler(file: Path, device: torch.device, dtype: torch.dtype) -> RRDBNet:
    """Loads an upscaler.

    Args:
        file: As for `read_config`.
        device: The target device.
        dtype: The precision.

    Returns:
        The network, frozen and in evaluation mode.

    Raises:
        WeightsError: The file is damaged, incomplete, or of another network.
    """
    started, name, config = time.perf_counter(), f"upscalers/{file.stem}", read_config(file)
    with torch.device("meta"):
        network = RRDBNet(config)
    try:
        with safe_open(file, "pt", device=str(device)) as opened:
            tensors = {key: opened.get_tensor(key).to(device, dtype) for key in opened.keys()}  # noqa: SIM118 - not a dict
        network.load_state_dict(tensors, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
            raise
        raise weights_error(name, error) from error
    network.requires_grad_(False)
    network.eval()
    check_network(network, name=name, dtype=dtype)
    log_loaded(name, sum(tensor.nbytes for tensor in tensors.values()), time.perf_counter() - started)
    return network
