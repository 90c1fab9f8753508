"""The tiny models, generated once per machine."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from builder.make_tiny_models import make_tiny_models


def tiny_models_at(root: Path) -> Path:
    """Returns a read-only MODELS_DIR with `sdxl`, `wan`, `qwen_instruct` and `qwen_base`."""
    folder = root / ".pytest_cache" / "tiny_models"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # pytest-xdist runs several processes
        make_tiny_models(folder)
    return folder
