"""Compares WAN's VAE decoder with diffusers': bytes moved, memory and operations at full size, and time on the CPU.

`python -m benchmarks.wan_decoder`. The counts are for the published configuration on meta tensors, which have shapes and no values, and 81
frames of 480 × 832. The times are for a quarter of the channels and a small picture; both sides alternate in one process.
"""

from __future__ import annotations

import statistics
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from handlers.wan.decoder import StreamingDecoder

_LATENT_FRAMES = 21
_ARITHMETIC = ("convolution", "mm", "bmm", "addmm", "baddbmm")
_UNREAD = ("copy_", "fill_", "zero_")
_WITHOUT_KERNEL = ("empty", "empty_like", "new_empty", "detach")


@dataclass
class Traffic:
    """What the decoding of one clip does.

    Attributes:
        moved: The bytes that kernels other than convolutions and matrix multiplications read and write.
        peak: The most bytes alive at the same time, in addition to the VAE's weights.
        kernels: How many kernels run.
        flops: Operations of convolutions and matrix multiplications.
    """

    moved: int = 0
    peak: int = 0
    kernels: int = 0
    flops: int = 0


class TrafficCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch types it in part
    """Counts the bytes that kernels read and write, and the bytes alive. Broadcast dimensions are read once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted = Traffic()
        self._alive = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation and counts it."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _WITHOUT_KERNEL:
            self.counted.kernels += 1
            if name not in _ARITHMETIC:
                self.move(*_tensors(args[1:] if name in _UNREAD else args), *_tensors(result))
        self.watch(result)
        return result

    def move(self, *tensors: Tensor) -> None:
        """Counts tensors that are read or written."""
        self.counted.moved += sum(_size(tensor) for tensor in tensors)

    def watch(self, result: Any) -> None:
        """Counts the memory of new tensors until it is freed."""
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if (key := storage._cdata) not in self._seen:
                self._seen.add(key)
                self._alive += storage.nbytes()
                self.counted.peak = max(self.counted.peak, self._alive)
                weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._alive -= size


class FusedNorm(TorchFunctionMode):
    """Counts `rms_norm` as the one kernel that it is on a GPU; meta tensors decompose it."""

    def __init__(self, counter: TrafficCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one function, a norm without counting its parts."""
        if func is not functional.rms_norm:
            return func(*args, **(kwargs or {}))
        self._counter.counted.kernels += 1
        self._counter.move(args[0], args[0])
        return torch.empty_like(args[0])


def count(decode: Callable[[Any, Tensor], Iterator[Tensor]], latent_frames: int = _LATENT_FRAMES) -> Traffic:
    """Counts the decoding of one clip of 480 × 832 at full size."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        vae, latents = AutoencoderKLWan().eval().requires_grad_(False), torch.empty(1, 16, latent_frames, 60, 104)
    counter, flops = TrafficCounter(), FlopCounterMode(display=False)
    for weight in vae.parameters():
        counter._seen.add(weight.untyped_storage()._cdata)
    with torch.inference_mode(), flops, counter, FusedNorm(counter):
        for frames in decode(vae, latents):
            del frames
    counter.counted.flops = flops.get_total_flops()
    return counter.counted


def by_diffusers(vae: Any, latents: Tensor) -> Iterator[Tensor]:
    """Decodes frame by frame with diffusers' decoder."""
    vae.clear_cache()
    for index, latent in enumerate(torch.split(latents, 1, dim=2)):
        vae._conv_idx = [0]
        first = {"first_chunk": True} if index == 0 else {}
        yield vae.decoder(latent, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, **first)
    vae.clear_cache()


def in_float32(vae: Any, latents: Tensor) -> Iterator[Tensor]:
    """Decodes frame by frame with the worker's decoder."""
    decoder = StreamingDecoder(vae.decoder, torch.float32)
    return (decoder.decode(latent) for latent in torch.split(latents, 1, dim=2))


def in_float16(vae: Any, latents: Tensor) -> Iterator[Tensor]:
    """Decodes frame by frame with the worker's decoder in half precision, as on a GPU."""
    decoder = StreamingDecoder(vae.decoder, torch.float16)
    return (decoder.decode(latent) for latent in torch.split(latents, 1, dim=2))


DECODERS = {"diffusers": by_diffusers, "float32": in_float32, "float16": in_float16}


def time_ratio(rounds: int) -> float:
    """Returns diffusers' processor time by the worker's in float32. Nine tenths of both are CPU kernels of convolutions."""
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan(base_dim=24).eval().requires_grad_(False)
    latents = torch.randn(1, 16, 3, 8, 8)
    before: list[float] = []
    after: list[float] = []
    with torch.inference_mode():
        for number in range(rounds + 1):
            for decode, taken in ((by_diffusers, before), (in_float32, after)):
                started = time.process_time()
                for frames in decode(vae, latents):
                    del frames
                if number:  # the first round warms up
                    taken.append(time.process_time() - started)
    return statistics.median(first / second for first, second in zip(before, after, strict=True))


def measure() -> dict[str, dict[str, int]]:
    """Returns the counts of all decodings."""
    return {name: asdict(count(decode)) for name, decode in DECODERS.items()}


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _size(tensor: Tensor) -> int:
    sides = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    elements = 1
    for side in sides:
        elements *= side
    return elements * tensor.element_size()


def main() -> int:
    """Prints the comparison and returns the exit status."""
    for name, counted in measure().items():
        print(f"{name}: " + ", ".join(f"{key} {value / 1e9:.3f} · 10⁹" for key, value in counted.items()))
    print(f"processor time: {time_ratio(5):.2f} ×")
    return 0


if __name__ == "__main__":
    sys.exit(main())
