"""Registers a no-op device guard for CUDA in builds of torch without CUDA.

Fake tensors have no kernels, but `copy_`, item assignment and `.to("cuda")` still ask for the device's guard, which such a build lacks.
torch has one for this purpose; registering it is one line of C++, which needs the headers of c10 only and compiles in seconds, once.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock

_SOURCE = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
static c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, new c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>());
"""
_CACHE = Path(__file__).parents[2] / ".pytest_cache" / "device_guard"


def can_build_device_guard() -> bool:
    """Returns whether `register_device_guard` can succeed: torch is built for CUDA, or there is a C++ compiler."""
    return torch.version.cuda is not None or compiler() is not None


@cache
def register_device_guard() -> None:
    """Registers the guard for the rest of the process.

    Raises:
        RuntimeError: There is no C++ compiler.
        subprocess.CalledProcessError: It failed.
    """
    if torch.version.cuda is not None:
        torch._C._ensureCUDADeviceGuardSet()
        return
    digest = hashlib.sha256(f"{torch.__version__}{_SOURCE}".encode()).hexdigest()[:16]
    library = _CACHE / f"{digest}.so"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(library.with_suffix(".lock")):  # pytest-xdist runs several processes
        if not library.exists():
            _compile(library)
    ctypes.CDLL(str(library))


def compiler() -> str | None:
    """Returns the path of a C++ compiler; None if there is none."""
    return shutil.which("g++") or shutil.which("c++")


def _compile(library: Path) -> None:
    found = compiler()
    if found is None:
        raise RuntimeError("a fake CUDA device needs a C++ compiler; install g++")
    torch_folder, source, built = Path(torch.__file__).parent, library.with_suffix(".cpp"), library.with_suffix(".tmp")
    source.write_text(_SOURCE, encoding="utf-8")
    options = ["-shared", "-fPIC", "-O1", "-std=c++20", f"-I{torch_folder}/include"]
    subprocess.run([found, *options, str(source), "-o", str(built), f"-L{torch_folder}/lib", "-lc10"], check=True)
    built.rename(library)
