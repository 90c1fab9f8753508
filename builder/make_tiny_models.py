"""Makes small models for all three handlers: real architectures and file layouts, random weights, the same bytes every time.

`python -m builder.make_tiny_models DIR` fills a folder that serves as `MODELS_DIR`. It takes seconds and downloads nothing. What it made
before and is still current it leaves alone; what it did not make it never touches.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

FAMILIES = ("sdxl", "wan", "qwen_instruct", "qwen_base")
"""The folders that are made, named as in `shared.weights.catalogue`."""

_STAMP = "made.json"
_LIBRARIES = ("torch", "diffusers", "transformers", "tokenizers")


class NotMadeHere(Exception):
    """A folder is in the way that this program did not make."""


def make_tiny_models(folder: Path, *, seed: int = 0) -> dict[str, bool]:
    """Makes the models that are missing or not current.

    Each model appears under its name at once and complete, so that a second run beside this one, or one that was stopped, leaves nothing
    half-made.

    Args:
        folder: Where the models go; it is made if it is missing.
        seed: Draws the weights.

    Returns:
        For each family, whether it was made now.

    Raises:
        NotMadeHere: A folder of the same name holds something else, such as real weights.
    """
    recipe = _recipe(seed)
    made = {}
    for family in FAMILIES:
        target = folder / family
        made[family] = not _is_current(target, recipe)
        if made[family]:
            _refuse_foreign(target)
            _make(family, target, recipe, seed)
    return made


def _recipe(seed: int) -> str:
    """Says what decides the bytes: this code, the libraries, the seed."""
    digest = hashlib.sha256()
    for source in (Path(__file__), *sorted((Path(__file__).parent / "tiny").glob("*.py"))):
        digest.update(source.read_bytes())
    libraries = " ".join(f"{name}=={version(name)}" for name in _LIBRARIES)
    return f"{digest.hexdigest()} {libraries} seed={seed}"


def _is_current(target: Path, recipe: str) -> bool:
    try:
        stamp = json.loads((target / _STAMP).read_text(encoding="utf-8"))
        sizes = {name: (target / name).stat().st_size for name in stamp["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(stamp["recipe"] == recipe and stamp["files"] == sizes)


def _refuse_foreign(target: Path) -> None:
    if target.exists() and not (target / _STAMP).is_file():
        raise NotMadeHere(f"{target} was not made by this program and is left alone. Move it away, or name another folder.")


def _make(family: str, target: Path, recipe: str, seed: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{family}-") as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        _write(family, new, seed)
        _stamp(new, recipe)
        if target.exists():
            os.rename(target, old)
        _put_in_place(new, target, recipe)


def _put_in_place(new: Path, target: Path, recipe: str) -> None:
    try:
        os.rename(new, target)
    except OSError:
        # Another run was quicker; what it made is the same.
        if not _is_current(target, recipe):
            raise


def _write(family: str, folder: Path, seed: int) -> None:
    # Imported here, so that finding everything current takes no time.
    import torch
    from transformers.utils import logging

    from builder.tiny.qwen import write_qwen_base, write_qwen_instruct
    from builder.tiny.sdxl import write_sdxl
    from builder.tiny.wan import write_wan

    logging.disable_progress_bar()
    writers = {"sdxl": write_sdxl, "wan": write_wan, "qwen_instruct": write_qwen_instruct, "qwen_base": write_qwen_base}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed * len(FAMILIES) + FAMILIES.index(family))  # so that instruct and base differ
        writers[family](folder)


def _stamp(folder: Path, recipe: str) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        path.chmod(0o644)  # weights are written for their owner alone, but a container may run as somebody else
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    (folder / _STAMP).write_text(json.dumps({"recipe": recipe, "files": sizes}, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.make_tiny_models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to fill, usable as MODELS_DIR")
    parser.add_argument("--seed", type=int, default=0, help="draws the weights (default 0)")
    options = parser.parse_args(arguments)
    try:
        made = make_tiny_models(options.folder, seed=options.seed)
    except NotMadeHere as error:
        print(error, file=sys.stderr)
        return 1
    for family, new in made.items():
        size = sum(path.stat().st_size for path in (options.folder / family).rglob("*") if path.is_file())
        print(f"{options.folder / family}  {size / 1e6:.1f} MB  {'made' if new else 'already current'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
