"""Where models run, in which precision, and what they take there."""

from __future__ import annotations

from typing import Literal

import torch

from shared.settings import SettingsError

Family = Literal["sdxl", "wan", "chat"]

# As published. SDXL's networks were trained for half precision, except its VAE; WAN and Qwen2.5 leave its range.
_ON_GPU: dict[Family, torch.dtype] = {"sdxl": torch.float16, "wan": torch.bfloat16, "chat": torch.bfloat16}


def choose_device(wanted: Literal["auto", "cuda", "cpu"]) -> torch.device:
    """Picks the device that models run on.

    Args:
        wanted: `auto` takes the first GPU if there is one.

    Raises:
        SettingsError: A GPU is wanted and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SettingsError("DEVICE=cuda, but torch finds no GPU. Start the worker on a GPU, or set DEVICE=auto or DEVICE=cpu.")
    return torch.device("cuda:0" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def choose_dtype(device: torch.device, family: Family) -> torch.dtype:
    """Picks the precision of a family's weights.

    A CPU gets full precision: it is the reference that everything else is compared with, and there a text does not change with the texts
    that are computed beside it.
    """
    return torch.float32 if device.type == "cpu" else _ON_GPU[family]


def forget_vram_peak(device: torch.device) -> None:
    """Begins to watch for the peak that `vram_used_mb` reports, so that a job reports its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def vram_used_mb(device: torch.device) -> int:
    """MiB of the GPU's memory that tensors have taken at most since the process began or the peak was last forgotten; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) // 2**20 if device.type == "cuda" else 0


def free_vram(device: torch.device) -> int | None:
    """Bytes of the GPU's memory that new tensors can have, what torch keeps in reserve included; None on a CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
