"""Limits of what is parsed of a set of weights: the headers of its `.safetensors` files, and its JSON files.

A parser takes about 0.2 s and 20 times the memory for each megabyte of a header, and does not stop. Real headers have less than a megabyte;
those of trainers that store statistics of their captions have a few.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

MAX_HEADER_BYTES = 4 * 2**20
MAX_JSON_BYTES = 16 * 2**20
"""A tokenizer has up to 12 MB."""

_LENGTH = struct.Struct("<Q")  # of the header, at the start of a file (https://github.com/huggingface/safetensors, "Format")


def limit_problem(weights: Path) -> str | None:
    """Returns why a file, or a file of a folder, is not parsed; None if all are within the limits.

    Of a `.safetensors` file, 8 bytes are read.

    Args:
        weights: A folder or a file. It need not exist.

    Raises:
        OSError: A file cannot be read.
    """
    root = weights if weights.is_dir() else weights.parent
    return next((f"{path.relative_to(root)} {problem}" for path in _files(weights) if (problem := _problem(path))), None)


def _files(weights: Path) -> Iterator[Path]:
    if weights.is_file():
        yield weights
    elif weights.is_dir():
        yield from (path for path in sorted(weights.rglob("*")) if path.is_file())


def _problem(path: Path) -> str | None:
    if path.suffix == ".json" and path.stat().st_size > MAX_JSON_BYTES:
        return f"has more than {MAX_JSON_BYTES // 2**20} MiB"
    if path.suffix == ".safetensors" and MAX_HEADER_BYTES < _header_bytes(path) <= path.stat().st_size:  # a longer one is damaged
        return f"has a header of more than {MAX_HEADER_BYTES // 2**20} MiB"
    return None


def _header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        start = file.read(_LENGTH.size)
    return int(_LENGTH.unpack(start)[0]) if len(start) == _LENGTH.size else 0
