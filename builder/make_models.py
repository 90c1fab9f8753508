"""Makes everything that the demo and the slower tests run on, in one folder that serves as `MODELS_DIR`: `make models`.

`python -m builder.make_models DIR` puts there the small models of this repository, which do what they are asked, a checkpoint of the small
SDXL in one file, a chat model that talks, and a base model with random weights, whose text is noise. It downloads nothing. What it made
before and is still current it leaves alone; what it did not make it never touches.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from builder.command_line import described, command_parser
from builder.make_tiny_models import make_tiny_model
from builder.weights.make_single_file import make_single_file
from small_models.build_cache import UnmanagedFolder, build_folder, fingerprint
from small_models.convert_smollm2 import ConversionError, convert_smollm2

SMALL_MODELS = Path(__file__).parents[1] / "small_models"
"""The trained models that belong to the repository."""

COPIED = ("sdxl", "wan", "loras", "controlnets", "ip_adapters")
CHECKPOINT = Path("checkpoints", "small.safetensors")
"""The small SDXL again, in the layout of published checkpoints."""


def make_models(folder: Path, small_models: Path = SMALL_MODELS) -> Iterator[tuple[str, str]]:
    """Makes what is missing or not current, part by part.

    Args:
        folder: Where the parts go.
        small_models: Where the trained ones come from.

    Yields:
        Each part's name as soon as it is there, and what became of it.

    Raises:
        UnmanagedFolder: A folder of the same name holds something else.
        ConversionError: The package that carries the chat model is not installed.
    """
    for name in COPIED:
        yield name, _copy(small_models / name, folder / name)
    yield CHECKPOINT.parent.name, _said(_make_checkpoint(folder))
    yield "qwen_instruct", _said(convert_smollm2(folder / "qwen_instruct"))
    yield "qwen_base", _said(make_tiny_model("qwen_base", folder / "qwen_base")) + ", random weights: its text is noise"


def _copy(source: Path, target: Path) -> str:
    """Copies a trained model. Links would break when the folder goes to another disk or into an image."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    names = " ".join(path.relative_to(source).as_posix() for path in files)
    return _said(build_folder(target, fingerprint(files, names), lambda new: _copy_files(source, new)))


def _copy_files(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)


def _make_checkpoint(folder: Path) -> bool:
    sdxl = folder / "sdxl"
    sources = [Path(__file__).with_name("weights") / "make_single_file.py", *sorted(path for path in sdxl.rglob("*") if path.is_file())]
    target = folder / CHECKPOINT.parent
    return build_folder(target, fingerprint(sources, libraries=("diffusers",)), lambda new: make_single_file(sdxl, new / CHECKPOINT.name))


def _said(made: bool) -> str:
    return "made" if made else "already current"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = command_parser("make_models", __doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to fill, usable as MODELS_DIR")
    options = parser.parse_args(arguments)
    try:
        for name, outcome in make_models(options.folder):
            print(f"{described(options.folder / name)}  {outcome}", flush=True)
    except (UnmanagedFolder, ConversionError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
