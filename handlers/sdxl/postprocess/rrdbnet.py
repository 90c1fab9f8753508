"""The network of Real-ESRGAN (arXiv 2107.10833), which is that of ESRGAN (arXiv 1809.00219): dense blocks, residual within residual."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from shared.models.load import check_network, log_loaded, unusable
from shared.settings import SettingsError

_SCALE = 0.2  # of each residual
_SLOPE = 0.2  # of the leaky ReLU below zero


class _DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it have made."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for index in range(5):
            made = growth if index < 4 else width
            self.add_module(f"conv{index + 1}", nn.Conv2d(width + index * growth, made, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        *first, last = self.children()
        for convolution in first:
            seen = torch.cat((seen, functional.leaky_relu(convolution(seen), _SLOPE)), 1)
        added: Tensor = last(seen)
        return x + _SCALE * added


class _Residual(nn.Module):
    """Three dense blocks."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_DenseBlock(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + _SCALE * added


@dataclass(frozen=True)
class Form:
    """How one is made.

    Attributes:
        factor: How many times larger its pictures are: 2 or 4. The network always enlarges four times; for 2 it first folds 2 × 2 pixels
            into one with more channels.
        width: Channels.
        growth: Channels that each convolution of a dense block adds.
        blocks: Residual blocks: 23 as published, 6 in the smaller ones.
    """

    factor: int
    width: int = 64
    growth: int = 32
    blocks: int = 23

    @property
    def folded(self) -> int:
        """Pixels, across and down, that are folded into one."""
        return 4 // self.factor


class RRDBNet(nn.Module):
    """Enlarges pictures. Its tensors are named as in BasicSR, with which the published weights were trained.

    Args:
        form: How it is made.
    """

    def __init__(self, form: Form) -> None:
        super().__init__()
        width = form.width
        self.form = form
        self.conv_first = nn.Conv2d(3 * form.folded**2, width, 3, padding=1)
        self.body = nn.Sequential(*(_Residual(width, form.growth) for _ in range(form.blocks)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """N × 3 × height × width in 0 … 1 → N × 3 × factor·height × factor·width, a little outside of it here and there.

        Height and width must be multiples of `form.folded`.
        """
        features = self.conv_first(functional.pixel_unshuffle(pictures, self.form.folded))
        features = features + self.conv_body(self.body(features))
        for convolution in (self.conv_up1, self.conv_up2):
            features = functional.leaky_relu(convolution(functional.interpolate(features, scale_factor=2, mode="nearest")), _SLOPE)
        enlarged: Tensor = self.conv_last(functional.leaky_relu(self.conv_hr(features), _SLOPE))
        return enlarged


def form_of(file: Path) -> Form:
    """Reads how the network of a file is made, and none of its numbers.

    Args:
        file: `.safetensors`, with BasicSR's names.

    Raises:
        SettingsError: It holds no such network.
    """
    try:
        with safe_open(file, "pt") as opened:
            names = set(opened.keys())
            width, channels, *_ = opened.get_slice("conv_first.weight").get_shape()
            growth = opened.get_slice("body.0.rdb1.conv1.weight").get_shape()[0]
    except (OSError, ValueError, IndexError, SafetensorError) as error:
        raise unusable(f"upscalers/{file.stem}", error) from error
    blocks = len({name.split(".")[1] for name in names if name.startswith("body.")})
    if channels not in (3, 12):
        raise SettingsError(f"The weights of upscalers/{file.stem} enlarge neither two nor four times.")
    return Form(4 if channels == 3 else 2, width, growth, blocks)


def load_upscaler(file: Path, device: torch.device, dtype: torch.dtype) -> RRDBNet:
    """Loads one.

    Args:
        file: As for `form_of`.
        device: Where it goes.
        dtype: Its precision.

    Returns:
        The network, frozen and in evaluation mode.

    Raises:
        SettingsError: The file is damaged, incomplete, or of another network.
    """
    started, name, form = time.perf_counter(), f"upscalers/{file.stem}", form_of(file)
    with torch.device("meta"):
        network = RRDBNet(form)
    try:
        with safe_open(file, "pt", device=str(device)) as opened:
            tensors = {key: opened.get_tensor(key).to(device, dtype) for key in opened.keys()}  # noqa: SIM118 - it is no dict
        network.load_state_dict(tensors, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
            raise
        raise unusable(name, error) from error
    network.requires_grad_(False)
    network.eval()
    check_network(network, name=name, dtype=dtype)
    log_loaded(name, sum(tensor.nbytes for tensor in tensors.values()), time.perf_counter() - started)
    return network
