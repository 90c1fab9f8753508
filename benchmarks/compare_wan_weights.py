"""Compares the part of a WAN VACE that makes video from text with the weights of a WAN that makes nothing else.

`python -m benchmarks.compare_wan_weights VACE_FOLDER TEXT_FOLDER` reads both diffusers folders tensor by tensor, and says which tensors differ. Where
none does, one set of weights serves both, and the worker's view of VACE is the text-to-video model itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from builder.command_line import command_parser
from shared.weights.folders import weight_files


class Incomparable(Exception):
    """A folder has no transformer, or the two are not of one architecture."""


def differences(vace: Path, text: Path) -> Iterator[tuple[str, float]]:
    """Compares every tensor of the text model with VACE's of the same name.

    Tensors in another precision are compared in the lower one: published folders differ in that.

    Args:
        vace: The folder of a VACE pipeline.
        text: The folder of a text-to-video pipeline.

    Yields:
        The name of a tensor, and the largest difference of its numbers; 0 where they are equal.

    Raises:
        Incomparable: A tensor of the text model is missing in VACE, or has another shape.
    """
    with ExitStack() as stack:
        ours, theirs = (_tensors(folder / "transformer", stack) for folder in (vace, text))
        missing = sorted(theirs.keys() - ours.keys())
        if missing:
            raise Incomparable(f"{len(missing)} tensors are not in {vace}, such as {missing[0]}.")
        for name in sorted(theirs):
            one, other = ours[name].get_tensor(name), theirs[name].get_tensor(name)
            if one.shape != other.shape:
                raise Incomparable(f"{name} is {tuple(one.shape)} in {vace} and {tuple(other.shape)} in {text}.")
            dtype = min(one.dtype, other.dtype, key=lambda kind: kind.itemsize)
            yield name, float((one.to(dtype).double() - other.to(dtype).double()).abs().max())


def _tensors(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Which open file has each tensor. Nothing is read yet."""
    from safetensors import safe_open

    files = [stack.enter_context(safe_open(path, framework="pt")) for path in weight_files(folder)]
    if not files:
        raise Incomparable(f"{folder} has no weights.")
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118 - it is no dict


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 0 when all tensors are equal."""
    parser = command_parser("compare_wan", __doc__)
    parser.add_argument("vace", type=Path, metavar="VACE_FOLDER")
    parser.add_argument("text", type=Path, metavar="TEXT_FOLDER")
    options = parser.parse_args(arguments)
    try:
        found = dict(differences(options.vace, options.text))
    except Incomparable as error:
        parser.error(str(error))
    differing = {name: largest for name, largest in found.items() if largest}
    for name, largest in differing.items():
        print(f"{name}  differs by up to {largest:.3g}")
    print(f"{len(found) - len(differing)} of {len(found)} tensors are equal.")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
