"""The tiny models, made once per machine."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from builder.make_tiny_models import make_tiny_models


def tiny_models_at(root: Path) -> Path:
    """A folder that serves as MODELS_DIR: `sdxl`, `wan`, `qwen_instruct`, `qwen_base`. Never to be written to."""
    folder = root / ".pytest_cache" / "tiny_models"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # tests run in several processes
        make_tiny_models(folder)
    return folder
