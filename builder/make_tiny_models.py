"""Makes small models for all three handlers: real architectures and file layouts, random weights, the same bytes every time.

`python -m builder.make_tiny_models DIR` fills a folder that serves as `MODELS_DIR`. It takes seconds and downloads nothing. What it made
before and is still current it leaves alone; what it did not make it never touches.
"""

from __future__ import annotations

import sys
from pathlib import Path

from builder.command_line import described, command_parser
from small_models.build_cache import UnmanagedFolder, build_folder, fingerprint

FAMILIES = ("sdxl", "wan", "qwen_instruct", "qwen_base")
"""The folders that are made, named as in `shared.weights.catalogue`."""

_LIBRARIES = ("torch", "diffusers", "transformers", "tokenizers")


def make_tiny_models(folder: Path, *, seed: int = 0) -> dict[str, bool]:
    """Makes the models that are missing or not current.

    Args:
        folder: Where the models go; it is made if it is missing.
        seed: Draws the weights.

    Returns:
        For each family, whether it was made now.

    Raises:
        UnmanagedFolder: A folder of the same name holds something else, such as real weights.
    """
    return {family: make_tiny_model(family, folder / family, seed=seed) for family in FAMILIES}


def make_tiny_model(family: str, target: Path, *, seed: int = 0) -> bool:
    """Makes one of `FAMILIES` unless it is current.

    Returns:
        Whether it was made now.

    Raises:
        UnmanagedFolder: The folder holds something else.
    """
    return build_folder(target, _recipe(seed), lambda new: _write(family, new, seed))


def _recipe(seed: int) -> str:
    here = Path(__file__)
    sources = (here, here.with_name("weights") / "sdxl_networks.py", *sorted((here.parents[1] / "small_models/tiny").glob("*.py")))
    return fingerprint(sources, f"seed={seed}", libraries=_LIBRARIES)


def _write(family: str, folder: Path, seed: int) -> None:
    # Imported here, so that finding everything current takes no time.
    import torch
    from transformers.utils import logging

    from small_models.tiny.qwen import write_qwen_base, write_qwen_instruct
    from small_models.tiny.sdxl import write_sdxl
    from small_models.tiny.wan import write_wan

    logging.disable_progress_bar()
    writers = {"sdxl": write_sdxl, "wan": write_wan, "qwen_instruct": write_qwen_instruct, "qwen_base": write_qwen_base}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed * len(FAMILIES) + FAMILIES.index(family))  # so that instruct and base differ
        writers[family](folder)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = command_parser("make_tiny_models", __doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to fill, usable as MODELS_DIR")
    parser.add_argument("--seed", type=int, default=0, help="draws the weights (default 0)")
    options = parser.parse_args(arguments)
    try:
        made = make_tiny_models(options.folder, seed=options.seed)
    except UnmanagedFolder as error:
        print(error, file=sys.stderr)
        return 1
    for family, new in made.items():
        print(f"{described(options.folder / family)}  {'made' if new else 'already current'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
