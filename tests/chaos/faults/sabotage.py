"""What a network of a worker meets while it computes. `sabotage.json` in the worker's folder says which, what, and how often."""

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

SABOTAGE, CALLS = Path("sabotage.json"), Path("calls.log")

_counting = threading.Lock()


def meet(name: str) -> None:
    """Does what `sabotage.json` has for a moment that is no network's."""
    if due(name) is not None:
        kill()


def kill() -> NoReturn:
    """As from outside: nothing is put in order any more."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives that")


def _raise(make: Callable[[], Exception]) -> Callable[[], NoReturn]:
    """Raises another error each time: one that is raised again keeps its earlier tracebacks, and with them the tensors of their frames."""

    def act() -> NoReturn:
        raise make()

    return act


def _lost(code: int, text: str) -> Callable[[], NoReturn]:
    import torch

    def make() -> Exception:
        error = torch.AcceleratorError(f"CUDA error: {text}")
        error.error_code = code  # type: ignore[attr-defined]  # torch sets it where it is raised
        return error

    return _raise(make)


def _hang() -> NoReturn:
    while True:
        threading.Event().wait()


LEAKED: list[Any] = []


def _leak() -> None:
    """A file and one MiB that nobody gives back: half of it in the heap, half in a mapping of its own."""
    LEAKED.append((os.open(os.devnull, os.O_RDONLY), os.urandom(2**19), [os.urandom(2**12) for _ in range(2**7)]))


def _hoard() -> None:
    """Memory that is given back to the allocator, and stays there: a piece that lies behind is still in use."""
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    pieces = [library.malloc(2**16) for _ in range(256)]
    LEAKED.append(pieces.pop())
    for piece in pieces:
        ctypes.memset(piece, 1, 2**16)
        library.free(ctypes.c_void_p(piece))


_NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.68 GiB"


def _deeds() -> dict[str, Callable[[], Any]]:
    import torch

    return {
        "oom": _raise(lambda: torch.OutOfMemoryError(_NO_MEMORY)),
        "illegal access": _lost(700, "an illegal memory access was encountered"),
        "ecc": _lost(214, "uncorrectable ECC error encountered"),
        "launch failure": _lost(719, "unspecified launch failure"),
        "lost by text": _raise(lambda: RuntimeError("CUDA error: an illegal memory access was encountered")),
        "hang": _hang,
        "kill": kill,
        "slow": lambda: time.sleep(0.2),
        "leak": _leak,
        "hoard": _hoard,
    }


def due(name: str) -> dict[str, Any] | None:
    """The sabotage that meets `name` now, counted down."""
    with _counting:
        if not SABOTAGE.exists():
            return None
        orders = json.loads(SABOTAGE.read_text())
        for order in orders:
            if order["where"] == name and order["times"] > 0:
                counted = "after" if order["after"] > 0 else "times"
                order[counted] -= 1
                SABOTAGE.write_text(json.dumps(orders))
                found: dict[str, Any] = order
                return found if counted == "times" else None
        return None


def sabotage(name: str, network: Any) -> None:
    """Lets a network meet what `sabotage.json` has for its name."""
    import torch

    deeds = _deeds()
    spoils: dict[str, Callable[[Any], Any]] = {
        "nan": lambda tensor: torch.full_like(tensor, float("nan")),
        "black": lambda tensor: torch.full_like(tensor, -1.0),
    }

    def before(_network: Any, _arguments: Any) -> None:
        with CALLS.open("a") as log:
            log.write(f"{name}\n")
        order = due(name)
        if order is not None and order["what"] in deeds:
            deeds[order["what"]]()

    def after(_network: Any, _arguments: Any, result: Any) -> Any:
        order = due(f"{name} result")
        if order is None:
            return result
        spoil = spoils[order["what"]]
        return spoil(result) if isinstance(result, torch.Tensor) else (spoil(result[0]), *result[1:])

    network.register_forward_pre_hook(before)
    network.register_forward_hook(after)
