"""Measures everything that needs a GPU, unattended: `make bench-gpu`, or `python -m benchmarks.gpu`.

SDXL, WAN and a chat model of Qwen2.5-7B's shape, at full size with random weights, which take the time and memory of trained ones, each
compared with diffusers or transformers in one process. Each runs in a process of its own, so that none finds memory taken, and one that
fails does not keep the others from running. `--small` measures small models on any machine, to test the command itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.make_full_size_sdxl import write_full_size
from builder.make_tiny_models import make_tiny_models


def main(arguments: list[str] | None = None) -> int:
    """Prints all tables and the seconds of each, and returns 1 if one has failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--small", action="store_true", help="measure small models")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        make_tiny_models(models)
        commands = small_commands(models) if options.small else full_size_commands(models, Path(folder, "sdxl.safetensors"))
        failed = [name for name, command in commands.items() if not _run(name, command)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def full_size_commands(models: Path, checkpoint: Path) -> dict[str, Sequence[str]]:
    """Writes a checkpoint of SDXL and returns the module and arguments of each measurement.

    Args:
        models: A folder of `make_tiny_models`, whose tokenizer WAN takes.
        checkpoint: The file to write, 6.9 GB.
    """
    write_full_size(checkpoint)
    return {
        "SDXL": ("benchmarks.sdxl_speed", str(checkpoint), "--batches", "1", "6", "--rounds", "2"),
        "WAN": ("benchmarks.wan_speed", str(models)),
        "chat": ("benchmarks.chat_gpu",),
    }


def small_commands(models: Path) -> dict[str, Sequence[str]]:
    """Returns the same with the small models of a folder of `make_tiny_models`."""
    sdxl = ("benchmarks.sdxl_speed", str(models / "sdxl"), "--side", "64", "--steps", "10", "--batches", "1", "--rounds", "1")
    return {"SDXL": sdxl, "WAN": ("benchmarks.wan_speed", str(models), "--tiny"), "chat": ("benchmarks.chat_gpu", "--small")}


def _run(name: str, command: Sequence[str]) -> bool:
    """Runs a measurement, whose output goes to this process's, and returns whether it succeeded."""
    started = time.monotonic()
    print(f"== {name}", flush=True)
    succeeded = subprocess.run([sys.executable, "-m", *command], check=False).returncode == 0
    print(f"   {time.monotonic() - started:.0f} s", flush=True)
    return succeeded


if __name__ == "__main__":
    raise SystemExit(main())
