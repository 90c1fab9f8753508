"""Measures how fast SDXL loads from a single-file checkpoint, and the host memory it takes: `python -m benchmarks.sdxl_loading FILE`.

FILE is a checkpoint, such as `python -m benchmarks.make_full_size_sdxl FILE` generates. Each measurement runs in a fresh process, cold (the
file is first dropped from the page cache) and warm: a read by one thread and by four, the imports of the worker, the loader after them, and
a start, in which the file is read while they are imported. On a CPU the loader memory-maps the file, so the time until every weight was
copied once, as to a GPU, is measured too. Memory is the process's anonymous memory, sampled a hundred times a second; file-backed pages do
not count, since the kernel can evict them at any time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shared.models.prefetch import prefetched
from shared.settings import prepare_environment
from shared.telemetry import configure_logging

_BUFFER = 64 * 2**20
_HEADROOM = 10**9
_READERS = 4


@dataclass(frozen=True)
class Measurement:
    """One process.

    Attributes:
        seconds: Until the loader returned, the file was read or everything was imported. Of a load, imports are excluded.
        copied: Until every weight was copied once.
        peak: Peak anonymous memory, in bytes.
    """

    seconds: float
    copied: float
    peak: int


def measure(file: Path, mode: str, *, cold: bool) -> Measurement:
    """Measures once, in a fresh process.

    Args:
        file: The checkpoint.
        mode: One of `MODES`.
        cold: Whether to drop the file from the page cache first.
    """
    if cold:
        _drop_from_page_cache(file)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sdxl_loading", str(file), "--mode", mode], check=True, capture_output=True, text=True
    )
    seconds, copied, peak = done.stdout.split()[-3:]
    return Measurement(float(seconds), float(copied), int(peak))


def report(file: Path) -> str:
    """Returns all measurements as text."""
    size = file.stat().st_size
    lines = [f"{size / 1e9:.2f} GB. Time, throughput and peak anonymous memory:"]
    for cold in (True, False):
        for mode in MODES:
            one = measure(file, mode, cold=cold)
            state = "cold" if cold else "warm"
            lines.append(
                f"  {mode} {state}: {one.seconds:6.2f} s, all copied after {one.copied:6.2f} s ({size / one.copied / 1e9:.2f} GB/s), "
                f"{one.peak / 1e9:.2f} GB"
            )
            if one.peak > size + _HEADROOM:
                raise SystemExit(f"{lines[-1]}\nPeak memory exceeds the file size by more than 1 GB.")
    return "\n".join(lines)


def _drop_from_page_cache(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(file: Path, readers: int = 1) -> Callable[[], None]:
    share = -(-file.stat().st_size // readers)
    with ThreadPoolExecutor(readers) as threads:
        list(threads.map(lambda number: _read_part(file, number * share, share), range(readers)))
    return _nothing


def _read_part(file: Path, offset: int, size: int) -> None:
    buffer = memoryview(bytearray(_BUFFER))
    with file.open("rb", buffering=0) as opened:
        opened.seek(offset)
        while size > 0 and (count := opened.readinto(buffer[:size])):
            size -= count


def _import(_file: Path) -> Callable[[], None]:
    import diffusers
    import transformers

    import handlers.sdxl.recipe
    import handlers.sdxl.weights.load  # noqa: F401

    # Attribute access triggers the lazy imports.
    _ = diffusers.StableDiffusionXLPipeline, diffusers.AutoencoderKL, diffusers.UNet2DConditionModel
    _ = transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection, transformers.CLIPTokenizer
    return _nothing


def _start(file: Path) -> Callable[[], None]:
    with prefetched([file]):
        import handlers.sdxl.recipe
        import handlers.sdxl.weights.load  # noqa: F401 - as the handler does
    return _load(file)


def _nothing() -> None:
    pass


def _load(file: Path) -> Callable[[], None]:
    """As `load_sdxl`, without the trial decode that determines the scale of the VAE, which takes seconds on a CPU."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from handlers.sdxl.weights.checkpoint import check_tensor_names, config_folder, load_component

    check_tensor_names(file)
    kinds = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
    }
    with prefetched([file]):
        networks = [
            load_component(kind, file, config_folder(file) / name, component=name, device=torch.device("cpu"), dtype=torch.float16)
            for name, kind in kinds.items()
        ]
    buffer = torch.empty(_BUFFER, dtype=torch.uint8)

    def copy() -> None:
        for network in networks:
            for tensor in network.parameters():
                for part in tensor.detach().reshape(-1).view(torch.uint8).split(_BUFFER):
                    buffer[: len(part)].copy_(part)

    return copy


@contextmanager
def _sample_memory(samples: list[int]) -> Iterator[None]:
    """Samples the process's anonymous memory while the body runs."""
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.01):
            samples.append(_anonymous_memory())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _anonymous_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


MODES: dict[str, Callable[[Path], Callable[[], None]]] = {
    "read": _read,
    "parallel read": partial(_read, readers=_READERS),
    "import": _import,
    "load": _load,
    "start": _start,
}
"""What is measured: each returns a function that copies the weights."""


def _measure_here(file: Path, mode: str) -> None:
    if mode == "load":
        _import(file)  # before the clock starts
    samples = [0]
    with _sample_memory(samples):
        started = time.perf_counter()
        copy = MODES[mode](file)
        seconds = time.perf_counter() - started
        copy()
        copied = time.perf_counter() - started
    print(seconds, copied, max(samples))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sdxl_loading", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--mode", choices=tuple(MODES), help="take a single measurement in this process")
    options = parser.parse_args(arguments)
    if options.mode is None:
        print(report(options.file))
        return 0
    prepare_environment()
    configure_logging("ERROR")
    _measure_here(options.file, options.mode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
