"""Builds the `MODELS_DIR` that the demo and the slow tests use: `make models`.

`python -m builder.make_models DIR` copies the small trained models of this repository, converts the small SDXL to a single-file checkpoint,
converts SmolLM2 for chat, and generates a base language model with random weights. Nothing is downloaded. Folders that are up to date are
skipped; files that this command did not generate are never touched.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from builder.command_line import command_parser
from builder.make_tiny_models import make_tiny_model
from builder.weights.make_single_file import make_single_file
from small_models.build_cache import STAMP, UnmanagedFolder, build_folder, fingerprint, folder_summary
from small_models.convert_smollm2 import ConversionError, convert_smollm2

SMALL_MODELS = Path(__file__).parents[1] / "small_models"
"""The trained models that are committed to this repository."""

COPIED = ("sdxl", "wan", "loras", "controlnets", "ip_adapters")
ADAPTER_NAMES = ("style", "composition", "character")
"""The reference types: the small IP-Adapter is installed under the name of each, so that it serves all of them."""
ADAPTER_FILE = "small.safetensors"
"""The small IP-Adapter in `ip_adapters`."""

CHECKPOINT = Path("checkpoints", "small.safetensors")
"""The small SDXL as a single-file checkpoint. The folder of its name has its configuration, which is not the published one."""


def make_models(folder: Path, small_models: Path = SMALL_MODELS) -> Iterator[tuple[str, str]]:
    """Builds every subfolder that is missing or out of date.

    Args:
        folder: The target `MODELS_DIR`.
        small_models: The folder of the trained models.

    Yields:
        The name of each subfolder once it exists, and whether it was built.

    Raises:
        UnmanagedFolder: A subfolder is out of date and contains files that were not generated.
        ConversionError: The package that contains the chat model is not installed.
    """
    for name in COPIED:
        yield name, _copy(small_models / name, folder / name)
    yield CHECKPOINT.parent.name, _outcome(_make_checkpoint(folder))
    yield "qwen_instruct", _outcome(convert_smollm2(folder / "qwen_instruct"))
    yield "qwen_base", _outcome(make_tiny_model("qwen_base", folder / "qwen_base")) + ", random weights: its text is noise"


def _copy(source: Path, target: Path) -> str:
    """Copies a trained model. A symlink would break when the folder is moved to another disk or into an image."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    copies = {path: _names(path.relative_to(source)) for path in files}
    names = " ".join(name for each in copies.values() for name in each)
    return _outcome(build_folder(target, fingerprint(files, names), lambda new: _copy_files(copies, new)))


def _names(path: Path) -> list[str]:
    """The names of a file's copies."""
    return [f"{name}.safetensors" for name in ADAPTER_NAMES] if path.name == ADAPTER_FILE else [path.as_posix()]


def _copy_files(copies: Mapping[Path, Sequence[str]], folder: Path) -> None:
    for source, names in copies.items():
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)


def _make_checkpoint(folder: Path) -> bool:
    sdxl = folder / "sdxl"
    sources = [Path(__file__).with_name("weights") / "make_single_file.py", *sorted(path for path in sdxl.rglob("*") if path.is_file())]
    target = folder / CHECKPOINT.parent

    def write(new: Path) -> None:
        make_single_file(sdxl, new / CHECKPOINT.name)
        shutil.copytree(sdxl, new / CHECKPOINT.stem, ignore=shutil.ignore_patterns("*.safetensors", "*.md", STAMP))

    return build_folder(target, fingerprint(sources, CHECKPOINT.stem, libraries=("diffusers",)), write)


def _outcome(built: bool) -> str:
    return "built" if built else "up to date"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = command_parser("make_models", __doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the target folder, usable as MODELS_DIR")
    options = parser.parse_args(arguments)
    try:
        for name, outcome in make_models(options.folder):
            print(f"{folder_summary(options.folder / name)}  {outcome}", flush=True)
    except (UnmanagedFolder, ConversionError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
