"""A real handler on small models, in the real SDK, that can be sabotaged. `FAULTS_HANDLER` says which: `sdxl`, `wan`, `chat`, `paint`.

Faults of the GPU are raised where they would be: inside a network, while it computes. `sabotage.json` in the worker's folder says which
network, what, and how often. Hooks of Python's own watch from below everything of ours: every connection is written to
`connections.log`, the names of `names.json` are resolved as it says, what is public leads to where `routes.json` says, and what is done to
files of the outbox can be sabotaged, too. The only authority for certificates that it knows is that of `FAULTS_AUTHORITY`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

SABOTAGE, NAMES, ROUTES = Path("sabotage.json"), Path("names.json"), Path("routes.json")
CALLS, CONNECTIONS = Path("calls.log"), Path("connections.log")
IN_USE = Path("in-use")

_look_up, _connect = socket.getaddrinfo, socket.create_connection
_counting = threading.Lock()


def _resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
    """The addresses that `names.json` has for a name; each look-up takes the next list of them, the last one stays."""
    name = host.decode() if isinstance(host, bytes) else str(host)
    names = json.loads(NAMES.read_text()) if NAMES.exists() else {}
    if name not in names:
        return _look_up(host, port, *rest, **more)
    addresses = names[name].pop(0) if len(names[name]) > 1 else names[name][0]
    NAMES.write_text(json.dumps(names))
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]


def _routes() -> dict[str, int]:
    routes: dict[str, int] = json.loads(ROUTES.read_text()) if ROUTES.exists() else {}
    return routes


def _lead(address: tuple[str, int], *rest: Any, **more: Any) -> socket.socket:
    """Connects to what stands for an address here, on port 443 only."""
    host, port = address
    return _connect(("127.0.0.1", _routes()[host]) if port == 443 and host in _routes() else address, *rest, **more)


def _meant(host: Any, port: int) -> str:
    """Where a connection was to lead."""
    stands_for = {led: f"{public} 443" for public, led in _routes().items()}
    return stands_for.get(port, f"{host} {port}")


_FILES = {"open": "outbox open", "os.rename": "outbox rename", "os.remove": "outbox remove"}
"""What is done to files of the outbox, by the names of Python's own events."""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _FILES and _in_outbox(_path(event, arguments)):
        _meet(_FILES[event])
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        with CONNECTIONS.open("a") as log:
            log.write(f"{_meant(*arguments[1][:2])}\n")
        if not str(arguments[1][0]).startswith(("127.", "::1", "localhost")):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")  # a test leaves this machine alone


def _path(event: str, arguments: tuple[Any, ...]) -> object:
    """Of a file that is named by itself, or by its folder's handle and its name."""
    if event != "os.remove" or arguments[1] < 0:
        return arguments[0]
    return os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), arguments[0])


def _in_outbox(path: object) -> bool:
    return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(os.environ.get("OUTBOX_DIR", "outbox") + os.sep)


def _meet(name: str) -> None:
    """Does what `sabotage.json` has for a moment that is no network's."""
    if _due(name) is not None:
        _kill()


def _kill() -> NoReturn:
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
    """A file and some memory that nobody gives back."""
    LEAKED.append((os.open(os.devnull, os.O_RDONLY), os.urandom(2**19)))


def _hoard() -> None:
    """Memory that is given back to the allocator, and stays there: a piece that lies behind is still in use."""
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    pieces = [library.malloc(2**16) for _ in range(256)]
    LEAKED.append(pieces.pop())
    for piece in pieces:
        ctypes.memset(piece, 1, 2**16)
        library.free(ctypes.c_void_p(piece))


class _Allocated(ctypes.Structure):
    """What `mallinfo2` of the C library says of all its heaps; `uordblks` and `hblkhd` are bytes in use, within them and beside them."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def _tell_memory(_signal: int, _frame: object) -> None:
    library = ctypes.CDLL(None)
    library.malloc_trim(0)
    library.mallinfo2.restype = _Allocated
    allocated = library.mallinfo2()
    told = IN_USE.with_suffix(".part")
    told.write_text(str(allocated.uordblks + allocated.hblkhd))
    told.rename(IN_USE)


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
        "kill": _kill,
        "slow": lambda: time.sleep(0.2),
        "leak": _leak,
        "hoard": _hoard,
    }


def _due(name: str) -> dict[str, Any] | None:
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
        order = _due(name)
        if order is not None and order["what"] in deeds:
            deeds[order["what"]]()

    def after(_network: Any, _arguments: Any, result: Any) -> Any:
        order = _due(f"{name} result")
        if order is None:
            return result
        spoil = spoils[order["what"]]
        return spoil(result) if isinstance(result, torch.Tensor) else (spoil(result[0]), *result[1:])

    network.register_forward_pre_hook(before)
    network.register_forward_hook(after)


def _networks(recipe: Any) -> dict[str, Any]:
    if hasattr(recipe, "_pipelines"):
        return {"denoiser": recipe._pipelines.text.transformer, "decoder": recipe._pipelines.text.vae.decoder}
    if hasattr(recipe, "_pipeline"):
        return {"denoiser": recipe._pipeline.unet, "decoder": recipe._pipeline.vae.decoder}
    if hasattr(recipe, "engine"):
        return {"writer": recipe.engine._models.batches["qwen_instruct"]._model}
    if hasattr(recipe, "brush"):
        import torch

        brush = torch.nn.Identity()
        recipe.brush = lambda: brush(torch.zeros(1))
        return {"denoiser": brush}
    return {}


def _sabotage_pictures() -> None:
    from PIL import Image

    save = Image.Image.save

    def save_(*arguments: Any, **options: Any) -> None:
        _meet("encoder")
        save(*arguments, **options)

    Image.Image.save = save_  # type: ignore[method-assign]


def _sabotage_clips() -> None:
    """Lets FFmpeg fail as it does: by its own errors, from the library that wraps it."""
    import av

    opened = av.open

    def open_(*arguments: Any, **options: Any) -> Any:
        if (order := _due("encoder")) is not None:
            if order["what"] == "kill":
                _kill()
            raise av.error.ExternalError(-542398533, "Generic error in an external library")
        return opened(*arguments, **options)

    av.open = open_


def _sabotage_disk() -> None:
    """There is no event for this one."""
    fsync = os.fsync

    def fsync_(handle: int) -> None:
        if _in_outbox(os.readlink(f"/proc/self/fd/{handle}") + os.sep):
            _meet("outbox fsync")
        fsync(handle)

    os.fsync = fsync_  # type: ignore[assignment]


def main() -> None:
    """Serves the handler."""
    signal.signal(signal.SIGUSR1, _tell_memory)
    sys.addaudithook(_watch)
    # Before anything that could remember the originals is imported.
    socket.getaddrinfo, socket.create_connection = _resolve, _lead  # type: ignore[assignment]
    import importlib

    import certifi

    certifi.where = lambda: os.environ["FAULTS_AUTHORITY"]
    name = os.environ["FAULTS_HANDLER"]
    handler = importlib.import_module("tests.doubles.paint" if name == "paint" else f"handlers.{name}.handler").HANDLER
    from shared.serverless import serve

    def load(settings: Any) -> Any:
        recipe = handler.load(settings)
        for name, network in _networks(recipe).items():
            sabotage(name, network)
        return recipe

    if name == "wan":
        _sabotage_clips()
    _sabotage_pictures()
    _sabotage_disk()
    serve(replace(handler, load=load))


if __name__ == "__main__":
    main()
