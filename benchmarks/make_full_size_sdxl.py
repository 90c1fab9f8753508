"""Writes a checkpoint of SDXL's published form and size with random numbers: `python -m benchmarks.make_full_size_sdxl FILE`.

6.94 GB in half precision, in the original layout. It draws noise, but it takes the time and the memory of a real one, which measurements
are about. It is written tensor by tensor, so that a small machine can make it.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from builder.command_line import command_parser
from handlers.sdxl.weights.checkpoint import PUBLISHED_CONFIG, tensor_source

Shapes = Mapping[str, tuple[int, ...]]

_BLOCK = 2**23  # numbers that are drawn once and written again and again, each tensor from another place on
_SPREAD = 0.02  # small enough that nothing overflows in half precision, whatever is multiplied
_ITEM = 2  # bytes


def write_full_size(file: Path, *, seed: int = 0) -> None:
    """Writes the file.

    Args:
        file: Where it goes.
        seed: Draws the numbers.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        write_random(out, full_size_shapes(), seed=seed)


def full_size_shapes(folder: Path = PUBLISHED_CONFIG) -> Shapes:
    """The tensors of a checkpoint in the original layout, by name.

    Args:
        folder: Says how the networks are made: a diffusers folder, weights or not.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for component, network in _networks(folder).items():
        for name, tensor in network.state_dict().items():
            source, shape = tensor_source(component, name, network.config), tuple(tensor.shape)
            if source.third is not None:
                shape = (3 * shape[0], *shape[1:])
            if source.transposed:
                shape = shape[::-1]
            if component == "vae" and ".attentions." in name and len(shape) == 2:
                shape = (*shape, 1, 1)  # what is linear in diffusers is a convolution in the original
            shapes[source.name] = shape
    return shapes


def write_random(out: BinaryIO, shapes: Shapes, *, seed: int = 0) -> None:
    """Writes random tensors in half precision in the format of safetensors, one by one.

    Args:
        out: Where they go.
        shapes: Their shapes, by name.
        seed: Draws the numbers.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * _ITEM
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    numbers = (np.random.default_rng(seed).standard_normal(_BLOCK, np.float32) * _SPREAD).astype(np.float16)
    for index, shape in enumerate(shapes.values()):
        for part in _parts(numbers, math.prod(shape), index):
            out.write(part)


def _parts(numbers: Any, count: int, index: int) -> Iterator[bytes]:
    start = index * 7919 % _BLOCK  # a prime, so that no two tensors of a network are alike
    while count:
        part = numbers[start : start + count]
        yield part.tobytes()
        count -= len(part)
        start = 0


def _networks(folder: Path) -> dict[str, Any]:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        made = {
            kind: cls.from_config(cls.load_config(folder / kind, local_files_only=True))
            for kind, cls in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL))
        }
        first, second = (CLIPTextConfig.from_pretrained(folder / f"text_encoder{suffix}", local_files_only=True) for suffix in ("", "_2"))
        return made | {"text_encoder": CLIPTextModel(first), "text_encoder_2": CLIPTextModelWithProjection(second)}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = command_parser("make_full_size_sdxl", __doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="the .safetensors file to write")
    options = parser.parse_args(arguments)
    write_full_size(options.file)
    print(f"{options.file}  {options.file.stat().st_size / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
