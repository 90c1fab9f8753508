"""Where models run, in which precision, and what they take there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

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


@dataclass(frozen=True)
class Memory:
    """The memory that models and their work share.

    Attributes:
        device: Whose.
        limit: Bytes that the worker may use of it. On a CPU, which is never short of so little, what a GPU would have; None there: no end.
    """

    device: torch.device
    limit: int | None = None

    def keep_to_limit(self) -> None:
        """Has torch refuse, on a GPU, what goes beyond the limit."""
        if self.device.type == "cuda" and self.limit is not None:
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.limit / total), self.device)

    @property
    def total(self) -> int | None:
        """Bytes in all; None where there is no end."""
        if self.device.type != "cuda":
            return self.limit
        total = int(torch.cuda.get_device_properties(self.device).total_memory)
        return total if self.limit is None else min(total, self.limit)

    def free(self, held: int) -> int | None:
        """Bytes that new tensors can have; None where there is no end.

        Args:
            held: Bytes of the weights that are on the device. A GPU is asked itself.
        """
        if self.device.type != "cuda":
            return None if self.limit is None else self.limit - held
        free = free_vram(self.device)
        left = None if self.limit is None else self.limit - torch.cuda.memory_allocated(self.device)
        return min(amount for amount in (free, left) if amount is not None)


def size_of(*networks: nn.Module | None) -> int:
    """Bytes of the weights of networks, what they share counted once."""
    tensors = [tensor for network in networks if network is not None for tensor in (*network.parameters(), *network.buffers())]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())
