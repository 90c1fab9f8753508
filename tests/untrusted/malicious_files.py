"""Malicious files: pickles and modules that create a canary folder if their code is executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

EXTENSIONS = ("ckpt", "bin", "pt", "pth", "pkl", "pickle", "zip", "safetensors")


class Payload:
    """Creates the canary folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._canary,)


def pickled(canary: Path) -> bytes:
    """Returns a bare pickle, like old checkpoints."""
    return pickle.dumps({"state_dict": Payload(canary)})


def torch_saved(canary: Path) -> bytes:
    """Returns the output of `torch.save`: a zip archive that contains a pickle."""
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "more": Payload(canary)}, file)
    return file.getvalue()


def zipped(canary: Path) -> bytes:
    """Returns a plain zip archive that contains a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(canary))
    return file.getvalue()


FORMATS: dict[str, Callable[[Path], bytes]] = {"pickle": pickled, "torch archive": torch_saved, "zip archive": zipped}


def module(canary: Path) -> str:
    """Returns a Python module that creates the canary when it is imported, with classes named like a model, a tokenizer and a pipeline."""
    names = ("HostileConfig", "HostileModel", "HostileTokenizer", "HostilePipeline", "HostileScheduler")
    classes = "".join(f"class {name}: pass\n" for name in names)
    return f"import os\nos.makedirs({str(canary)!r}, exist_ok=True)\n{classes}"


def update_json(path: Path, **fields: Any) -> None:
    """Updates fields of a JSON file."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | fields))


def copy_with_links(source: Path, target: Path, *, copied: tuple[str, ...] = ()) -> Path:
    """Copies a folder with symlinks to its subfolders, except for those that are to be modified."""
    target.mkdir(parents=True)
    for each in source.iterdir():
        if each.is_dir() and each.name not in copied:
            (target / each.name).symlink_to(each)
        elif each.is_dir():
            shutil.copytree(each, target / each.name)
        else:
            shutil.copy(each, target / each.name)
    return target
