"""Measures what `make setup` takes: `python -m benchmarks.set_up` does it in a copy, and keeps the result for `docs/performance.md`.

Takes minutes, 16 GB of disk, and the package registry. The pages say what it took on the machine that measured it.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.performance_page import render
from benchmarks.report import PAGE, keep

ROOT = Path(__file__).parents[1]
NEEDED = ("Makefile", "package.json", "pyproject.toml", "builder", "handlers", "shared", "small_models")
"""What `make setup` reads."""


def main() -> None:
    """Measures, and writes the page."""
    PAGE.write_text(render(keep(setup=measure_set_up())), encoding="utf-8")


def measure_set_up() -> dict[str, Any]:
    """Runs `make setup` in a copy.

    Returns:
        `seconds` and `processor_seconds` of the run, `bytes` of `.venv`, and `torch_bytes`: those of torch in it, and of torch and its CUDA
        libraries by each lock file.
    """
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for each in NEEDED:
            (shutil.copytree if (ROOT / each).is_dir() else shutil.copy)(ROOT / each, copy / each)
        started, used = time.monotonic(), _processor_seconds()
        subprocess.run(["make", "setup"], cwd=copy, check=True)
        seconds, processor_seconds = time.monotonic() - started, _processor_seconds() - used
        packages = copy / ".venv/lib/python3.11/site-packages"
        if (packages / "nvidia").exists():
            sys.exit("This measures from a package registry that offers torch's build for CPUs.")
        return {
            "seconds": round(seconds),
            "processor_seconds": round(processor_seconds),
            "bytes": size(copy / ".venv"),
            "torch_bytes": {"cpu": size(packages / "torch")} | {name: _size_of_lock(name, copy / name) for name in ("cu128", "cu130")},
        }


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _size_of_lock(name: str, target: Path) -> int:
    """Returns the bytes of the packages of one of torch's lock files."""
    lock = ROOT / f"builder/requirements/torch-{name}.txt"
    options = ["--quiet", "--no-deps", "--require-hashes", "--requirement", str(lock), "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options], check=True)
    return size(target)


def size(folder: Path) -> int:
    """Returns the bytes of the files in a folder, or 0 if there is none."""
    files = (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files if not file.is_symlink())


if __name__ == "__main__":
    main()
