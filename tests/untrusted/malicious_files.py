"""Files that would run code if somebody let them. What they would do is make a folder, whose absence shows that nothing ran."""

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

ENDINGS = ("ckpt", "bin", "pt", "pth", "pkl", "pickle", "zip", "safetensors")


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._canary,)


def pickled(canary: Path) -> bytes:
    """A bare pickle, as old checkpoints are."""
    return pickle.dumps({"state_dict": Payload(canary)})


def zipped(canary: Path) -> bytes:
    """What `torch.save` writes: an archive with a pickle in it."""
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "more": Payload(canary)}, file)
    return file.getvalue()


def archived(canary: Path) -> bytes:
    """An ordinary archive with a pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(canary))
    return file.getvalue()


FORMS: dict[str, Callable[[Path], bytes]] = {"a pickle": pickled, "torch's archive": zipped, "an archive": archived}


def module(canary: Path) -> str:
    """A module of Python that acts when it is imported, and has what a model, a tokenizer or a pipeline would be called."""
    names = ("HostileConfig", "HostileModel", "HostileTokenizer", "HostilePipeline", "HostileScheduler")
    classes = "".join(f"class {name}: pass\n" for name in names)
    return f"import os\nos.makedirs({str(canary)!r}, exist_ok=True)\n{classes}"


def edited(path: Path, **fields: Any) -> None:
    """Changes fields of a file of JSON."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | fields))


def linked(source: Path, target: Path, *, own: tuple[str, ...] = ()) -> Path:
    """A copy of a folder whose parts are links, but for those that are to be changed."""
    target.mkdir(parents=True)
    for each in source.iterdir():
        if each.is_dir() and each.name not in own:
            (target / each.name).symlink_to(each)
        elif each.is_dir():
            shutil.copytree(each, target / each.name)
        else:
            shutil.copy(each, target / each.name)
    return target
