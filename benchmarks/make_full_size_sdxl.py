"""Generates an SDXL checkpoint of the published architecture and size with random weights: `python -m benchmarks.make_full_size_sdxl FILE`.

6.94 GB in half precision, in the original single-file layout. Its images are noise, but loading and inference take the time and memory of
real weights. The file is written tensor by tensor, so a machine with little memory can generate it.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from handlers.sdxl.weights.checkpoint import PUBLISHED_CONFIG, tensor_source

Shapes = Mapping[str, tuple[int, ...]]

_BLOCK = 2**23  # random values, generated once and reused by every tensor, each starting at a different offset
_STD = 0.02  # small enough that no activation overflows in half precision
_ITEM_SIZE = 2  # bytes


def write_full_size(file: Path, *, seed: int = 0) -> None:
    """Writes the checkpoint.

    Args:
        file: The `.safetensors` file to write.
        seed: Seeds the random weights.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        write_random(out, full_size_shapes(), seed=seed)


def full_size_shapes(folder: Path = PUBLISHED_CONFIG) -> Shapes:
    """Returns the shapes of a checkpoint's tensors by their names in the original layout.

    Args:
        folder: A diffusers folder with the networks' configurations; weights are not needed.
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
                shape = (*shape, 1, 1)  # a linear layer in diffusers, a 1 × 1 convolution in the original
            shapes[source.name] = shape
    return shapes


def write_random(out: BinaryIO, shapes: Shapes, *, seed: int = 0) -> None:
    """Streams random half-precision tensors in the safetensors format.

    Args:
        out: A binary file opened for writing.
        shapes: The tensors' shapes by name.
        seed: Seeds the random weights.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * _ITEM_SIZE
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    values = (np.random.default_rng(seed).standard_normal(_BLOCK, np.float32) * _STD).astype(np.float16)
    for index, shape in enumerate(shapes.values()):
        for chunk in _chunks(values, math.prod(shape), index):
            out.write(chunk)


def _chunks(values: Any, count: int, index: int) -> Iterator[bytes]:
    start = index * 7919 % _BLOCK  # a prime stride, so that no two tensors of a network are equal
    while count:
        chunk = values[start : start + count]
        yield chunk.tobytes()
        count -= len(chunk)
        start = 0


def _networks(folder: Path) -> dict[str, Any]:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        networks = {
            kind: cls.from_config(cls.load_config(folder / kind, local_files_only=True))
            for kind, cls in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL))
        }
        first, second = (CLIPTextConfig.from_pretrained(folder / f"text_encoder{suffix}", local_files_only=True) for suffix in ("", "_2"))
        return networks | {"text_encoder": CLIPTextModel(first), "text_encoder_2": CLIPTextModelWithProjection(second)}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.make_full_size_sdxl", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="the .safetensors file to write")
    options = parser.parse_args(arguments)
    write_full_size(options.file)
    print(f"{options.file}  {options.file.stat().st_size / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
