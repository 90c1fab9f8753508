"""Checks that a folder of weights is complete, and that it leads libraries to no unsafe files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.weights.catalogue import Layout

_HALF = "fp16"
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))


def missing_files(folder: Path, layout: Layout) -> list[str]:
    """Lists the files that a folder lacks. Reads only the small files that name the large ones.

    Args:
        folder: A folder of weights.
        layout: The expected layout.

    Returns:
        The missing files, relative to the folder, or `no such folder`; empty if it is complete.
    """
    if not folder.is_dir():
        return ["no such folder"]
    missing = _missing_of_pipeline(folder) if layout == "diffusers" else [*_missing_of_network(folder), *_missing_of_tokenizer(folder)]
    return [path.relative_to(folder).as_posix() for path in missing]


def weight_files(folder: Path, *, half: bool = False) -> list[Path]:
    """Lists the weight files of one network.

    Args:
        folder: The network's own folder.
        half: Which files to prefer where a folder has both: half precision or full.

    Returns:
        The `.safetensors` files, sorted by name; all of one precision.
    """
    files = sorted(folder.glob("*.safetensors"))
    chosen = [path for path in files if is_half(path) == half]
    return chosen or files


def unsafe_references(folder: Path) -> list[str]:
    """Finds references to files other than the folder's own `.safetensors`, such as pickles, which the libraries would load.

    The libraries follow these references even when they are told to use `.safetensors` only.

    Args:
        folder: The network's own folder.

    Returns:
        The reasons not to load it; empty if there are none.
    """
    indexes = [path.name for path in sorted(folder.glob("*.index*.json")) if not all(_SHARD.fullmatch(shard) for shard in _shards(path))]
    reasons = [f"{name} names files other than .safetensors in its folder" for name in indexes]
    if "transformers_weights" in _read(folder / "config.json"):
        reasons.append("config.json names a weight file (transformers_weights)")
    if (folder / "adapter_config.json").exists():
        reasons.append("its folder contains an adapter (adapter_config.json)")
    return reasons


def is_half(path: Path) -> bool:
    """Returns whether a file's name marks the half-precision variant, as in `model.fp16.safetensors`."""
    return _HALF in path.name.replace("-", ".").split(".")


def _missing_of_pipeline(folder: Path) -> Iterator[Path]:
    index = folder / "model_index.json"
    components = [name for name, origin in _read(index).items() if isinstance(origin, list) and origin[:1] not in ([], [None])]
    if not components:
        yield index
    for name in components:
        part = folder / name
        if name.startswith("tokenizer"):
            yield from _missing_of_tokenizer(part)
        elif name == "scheduler":
            yield from _absent(part / "scheduler_config.json")
        elif name in ("feature_extractor", "image_processor"):
            yield from _absent(part / "preprocessor_config.json")
        else:
            yield from _missing_of_network(part)


def _missing_of_network(folder: Path) -> Iterator[Path]:
    yield from _absent(folder / "config.json")
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        yield from _absent(*(folder / shard for shard in _shards(index))) if _shards(index) else (index,)
    if not weight_files(folder):
        yield folder / "*.safetensors"


def _shards(index: Path) -> list[str]:
    parts = _read(index).get("weight_map")
    return sorted({str(part) for part in parts.values()}) if isinstance(parts, dict) else []


def _missing_of_tokenizer(folder: Path) -> Iterator[Path]:
    yield from _absent(folder / "tokenizer_config.json")
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZER_FILES):
        found = [names for names in _TOKENIZER_FILES if any((folder / name).is_file() for name in names)]
        yield from _absent(*(folder / name for name in (found or _TOKENIZER_FILES)[0]))


def _absent(*paths: Path) -> Iterator[Path]:
    return (path for path in paths if not path.is_file())


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
