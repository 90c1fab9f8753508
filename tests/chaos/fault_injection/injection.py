"""Faults that a worker under test raises in its own networks, and the files in its folder by which tests control it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

# Written by tests: pending faults, DNS overrides, routes.
FAULTS, NAMES, ROUTES = Path("faults.json"), Path("names.json"), Path("routes.json")
# Written by the worker: calls of networks, addresses of connections.
CALLS, CONNECTIONS = Path("calls.log"), Path("connections.log")

_lock = threading.Lock()


def pop_fault(target: str) -> str | None:
    """Returns the fault that this call of a target meets, and counts the call."""
    with _lock:
        if not FAULTS.exists():
            return None
        pending = json.loads(FAULTS.read_text())
        for each in pending:
            if each["target"] == target and each["times"] > 0:
                counter = "skip" if each["skip"] > 0 else "times"
                each[counter] -= 1
                FAULTS.write_text(json.dumps(pending))
                return str(each["fault"]) if counter == "times" else None
        return None


def kill_if_due(target: str) -> None:
    """Kills the process if a fault is pending for a target that is not a network."""
    if pop_fault(target) is not None:
        kill()


def kill() -> NoReturn:
    """Ends the process as an external SIGKILL does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL is not survived")


def inject_into(name: str, network: Any) -> None:
    """Installs hooks that log each call of a network and raise its pending faults."""
    import torch

    raising = actions()
    spoiling: dict[str, Callable[[Any], Any]] = {
        "nan": lambda tensor: torch.full_like(tensor, float("nan")),
        "black": lambda tensor: torch.full_like(tensor, -1.0),
    }

    def before(_network: Any, _arguments: Any) -> None:
        with CALLS.open("a") as log:
            log.write(f"{name}\n")
        fault = pop_fault(name)
        if fault is not None and fault in raising:
            raising[fault]()

    def after(_network: Any, _arguments: Any, result: Any) -> Any:
        fault = pop_fault(f"{name} result")
        if fault is None:
            return result
        spoil = spoiling[fault]
        return spoil(result) if isinstance(result, torch.Tensor) else (spoil(result[0]), *result[1:])

    network.register_forward_pre_hook(before)
    network.register_forward_hook(after)


def actions() -> dict[str, Callable[[], Any]]:
    """Returns what happens on each fault, by its name."""
    import torch

    return {
        "oom": _raise(lambda: torch.OutOfMemoryError(_OUT_OF_MEMORY)),
        "illegal access": _raise_device_error(700, "an illegal memory access was encountered"),
        "ecc": _raise_device_error(214, "uncorrectable ECC error encountered"),
        "launch failure": _raise_device_error(719, "unspecified launch failure"),
        "lost by text": _raise(lambda: RuntimeError("CUDA error: an illegal memory access was encountered")),
        "hang": _hang,
        "kill": kill,
        "slow": lambda: time.sleep(0.2),
        "leak": _leak,
        "fragment": _fragment,
    }


_OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.68 GiB"

LEAKED: list[Any] = []


def _raise(make: Callable[[], Exception]) -> Callable[[], NoReturn]:
    """Raises a new exception each time: one that is raised twice keeps its first traceback, and the tensors of those frames."""

    def act() -> NoReturn:
        raise make()

    return act


def _raise_device_error(code: int, text: str) -> Callable[[], NoReturn]:
    import torch

    def make() -> Exception:
        error = torch.AcceleratorError(f"CUDA error: {text}")
        error.error_code = code  # type: ignore[attr-defined]  # torch sets it where it raises the error
        return error

    return _raise(make)


def _hang() -> NoReturn:
    while True:
        threading.Event().wait()


def _leak() -> None:
    """Leaks one file descriptor and 1 MiB: half of it on the heap, half in a mapping of its own."""
    LEAKED.append((os.open(os.devnull, os.O_RDONLY), os.urandom(2**19), [os.urandom(2**12) for _ in range(2**7)]))


def _fragment() -> None:
    """Frees 16 MiB below an allocation that stays, so that the allocator cannot return the pages to the system."""
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    pieces = [library.malloc(2**16) for _ in range(256)]
    LEAKED.append(pieces.pop())
    for piece in pieces:
        ctypes.memset(piece, 1, 2**16)
        library.free(ctypes.c_void_p(piece))
