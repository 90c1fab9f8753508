"""How fast SDXL is loaded from one file, and what it takes of the host's memory: `python -m benchmarks.sdxl_loading FILE`.

FILE is a checkpoint, such as `python -m benchmarks.make_full_size_sdxl FILE` writes. Each measurement is a process of its own, cold (the file
is dropped from the page cache first) and warm. Beside the load stands a raw read of the same file. On a CPU the loader maps the file and
has read nothing of it when it returns, so there is also the time until every weight was copied once, as to a GPU. Memory is what belongs to
the process alone (anonymous), looked at a hundred times a second; pages of the file can be dropped at any time and do not count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.settings import prepare_environment
from shared.telemetry import configure_logging

WAYS = ("read", "load")
_BUFFER = 64 * 2**20
_ROOM = 10**9


@dataclass(frozen=True)
class Measured:
    """One process.

    Attributes:
        seconds: Until the loader returned, or the file was read. Imports are not in it.
        copied: Until every weight was copied once.
        peak: Bytes of anonymous memory at most.
    """

    seconds: float
    copied: float
    peak: int


def measure(file: Path, way: str, *, cold: bool) -> Measured:
    """Measures once, in a process of its own.

    Args:
        file: The checkpoint.
        way: One of `WAYS`.
        cold: Whether the file is dropped from the page cache before.
    """
    if cold:
        _drop(file)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sdxl_loading", str(file), "--way", way], check=True, capture_output=True, text=True
    )
    seconds, copied, peak = done.stdout.split()[-3:]
    return Measured(float(seconds), float(copied), int(peak))


def report(file: Path) -> str:
    """All figures, as text."""
    size = file.stat().st_size
    lines = [f"{size / 1e9:.2f} GB. Seconds and GB/s, and anonymous memory at most:"]
    for cold in (True, False):
        for way in WAYS:
            one = measure(file, way, cold=cold)
            state = "cold" if cold else "warm"
            lines.append(
                f"  {way} {state}: {one.seconds:6.2f} s, until all is copied {one.copied:6.2f} s ({size / one.copied / 1e9:.2f} GB/s), "
                f"{one.peak / 1e9:.2f} GB"
            )
            if one.peak > size + _ROOM:
                raise SystemExit(f"{lines[-1]}\nThat is more than the file and 1 GB.")
    return "\n".join(lines)


def _drop(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(file: Path) -> Callable[[], None]:
    buffer = bytearray(_BUFFER)
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass
    return lambda: None


def _load(file: Path) -> Callable[[], None]:
    import torch

    from handlers.sdxl.weights.load import load_sdxl

    pipeline = load_sdxl(file, torch.device("cpu"), torch.float16)
    buffer = torch.empty(_BUFFER, dtype=torch.uint8)

    def copy() -> None:
        for network in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.unet, pipeline.vae):
            for tensor in network.parameters():
                for part in tensor.detach().reshape(-1).view(torch.uint8).split(_BUFFER):
                    buffer[: len(part)].copy_(part)

    return copy


@contextmanager
def _watched(peak: list[int]) -> Iterator[None]:
    """Puts the most anonymous memory that the process had while the body ran into `peak`."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.01):
            peak.append(_anonymous())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _once(file: Path, way: str) -> None:
    if way == "load":
        import diffusers
        import torch  # noqa: F401 - before the clock starts
        import transformers  # noqa: F401

        _ = diffusers.StableDiffusionXLPipeline  # which imports it
    peak = [0]
    with _watched(peak):
        started = time.perf_counter()
        copy = (_load if way == "load" else _read)(file)
        seconds = time.perf_counter() - started
        copy()
        copied = time.perf_counter() - started
    print(seconds, copied, max(peak))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sdxl_loading", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--way", choices=WAYS, help="one measurement alone, in this process")
    options = parser.parse_args(arguments)
    if options.way is None:
        print(report(options.file))
        return 0
    prepare_environment()
    configure_logging("ERROR")
    _once(options.file, options.way)
    return 0


if __name__ == "__main__":
    sys.exit(main())
