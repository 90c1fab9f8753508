"""Compares the text-to-video weights inside a WAN VACE checkpoint with those of a text-to-video checkpoint.

`python -m benchmarks.compare_wan_weights VACE_FOLDER TEXT_FOLDER` compares two diffusers folders tensor by tensor and lists differences.
If there are none, the VACE checkpoint serves both uses, and the worker's text-to-video view of it is exactly the text-to-video model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from shared.weights.folders import weight_files


class Incomparable(Exception):
    """A folder contains no transformer weights, or the architectures differ."""


def differences(vace: Path, text: Path) -> Iterator[tuple[str, float]]:
    """Compares every tensor of the text-to-video model with the VACE tensor of the same name.

    Tensors of different precision are compared in the lower one, because published folders differ in it.

    Args:
        vace: The folder of a VACE pipeline.
        text: The folder of a text-to-video pipeline.

    Yields:
        The name of a tensor, and its largest absolute difference; 0 if the tensors are equal.

    Raises:
        Incomparable: A tensor of the text-to-video model is missing in VACE, or has another shape.
    """
    with ExitStack() as stack:
        ours, theirs = (_tensors(folder / "transformer", stack) for folder in (vace, text))
        missing = sorted(theirs.keys() - ours.keys())
        if missing:
            raise Incomparable(f"{len(missing)} tensors are missing in {vace}, such as {missing[0]}.")
        for name in sorted(theirs):
            one, other = ours[name].get_tensor(name), theirs[name].get_tensor(name)
            if one.shape != other.shape:
                raise Incomparable(f"{name} is {tuple(one.shape)} in {vace} and {tuple(other.shape)} in {text}.")
            dtype = min(one.dtype, other.dtype, key=lambda kind: kind.itemsize)
            yield name, float((one.to(dtype).double() - other.to(dtype).double()).abs().max())


def _tensors(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Maps each tensor's name to the open file that contains it, without reading any tensor."""
    from safetensors import safe_open

    files = [stack.enter_context(safe_open(path, framework="pt")) for path in weight_files(folder)]
    if not files:
        raise Incomparable(f"{folder} contains no weights.")
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118 - not a dict


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 0 if all tensors are equal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_wan_weights", description=__doc__)
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
