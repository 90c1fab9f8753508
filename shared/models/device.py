"""The device that models run on, their precision, and the GPU memory that they use."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import JsonValue
from torch import nn

from shared.settings import SettingsError

Family = Literal["sdxl", "wan", "chat"]

# As published. SDXL's networks were trained for half precision, except its VAE; WAN and Qwen2.5 exceed the range of float16.
_ON_GPU: dict[Family, torch.dtype] = {"sdxl": torch.float16, "wan": torch.bfloat16, "chat": torch.bfloat16}


def choose_device(setting: Literal["auto", "cuda", "cpu"]) -> torch.device:
    """Returns the device that models run on.

    Args:
        setting: `auto` takes the first GPU if there is one.

    Raises:
        SettingsError: A GPU is required and there is none.
    """
    if setting == "cuda" and not torch.cuda.is_available():
        raise SettingsError("DEVICE=cuda, but torch finds no GPU. Start the worker on a GPU, or set DEVICE=auto or DEVICE=cpu.")
    return torch.device("cuda:0" if setting != "cpu" and torch.cuda.is_available() else "cpu")


def choose_dtype(device: torch.device, family: Family) -> torch.dtype:
    """Returns the precision of a family's weights.

    On a CPU it is float32: the reference that all else is compared with, in which a text does not depend on the texts in the same batch.
    """
    return torch.float32 if device.type == "cpu" else _ON_GPU[family]


def reset_vram_peak(device: torch.device) -> None:
    """Resets the peak that `vram_used_mb` reports, so that a job reports its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def vram_used_mb(device: torch.device) -> int:
    """Returns the peak of allocated GPU memory since the last reset, in MiB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) // 2**20 if device.type == "cuda" else 0


def describe_device(device: torch.device) -> dict[str, JsonValue]:
    """Returns what payloads report about the device: its name, the job's peak of allocated memory and the total, in MiB."""
    if device.type != "cuda":
        return {"device": device.type, "vram_used": 0, "vram_total": 0}
    properties = torch.cuda.get_device_properties(device)
    return {"device": properties.name, "vram_used": vram_used_mb(device), "vram_total": properties.total_memory // 2**20}


def free_vram(device: torch.device) -> int | None:
    """Returns the bytes of GPU memory available for new tensors, including torch's cached blocks; None on a CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def memory_footprint(*networks: nn.Module | None) -> int:
    """Returns the bytes of the networks' weights, counting shared tensors once."""
    tensors = [tensor for network in networks if network is not None for tensor in (*network.parameters(), *network.buffers())]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def use_fast_convolutions(network: nn.Module) -> None:
    """Stores a network's 2D convolutions with the channels last on a GPU, the layout in which cuDNN computes them in half precision."""
    if all(parameter.is_cuda for parameter in network.parameters()):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this form
