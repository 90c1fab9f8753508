"""A real handler on small models, in the real SDK, that can be sabotaged. `FAULTS_HANDLER` says which: `sdxl`, `wan`, `chat`, `paint`.

Faults of the GPU are raised where they would be: inside a network, while it computes. `sabotage.json` in the worker's folder says which
network, what, and how often. Hooks of Python's own watch from below everything of ours: every connection is written to
`connections.log`, the names of `names.json` are resolved as it says, what is public leads to where `routes.json` says, and what is done to
files of the outbox can be sabotaged, too. The only authority for certificates that it knows is that of `FAULTS_AUTHORITY`.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.chaos.faults.memory import sweep_timers, tell_heap
from tests.chaos.faults.sabotage import due, kill, meet, sabotage

NAMES, ROUTES, CONNECTIONS = Path("names.json"), Path("routes.json"), Path("connections.log")

_look_up, _connect = socket.getaddrinfo, socket.create_connection


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
        meet(_FILES[event])
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
        meet("encoder")
        save(*arguments, **options)

    Image.Image.save = save_  # type: ignore[method-assign]


def _sabotage_clips() -> None:
    """Lets FFmpeg fail as it does: by its own errors, from the library that wraps it."""
    import av

    opened = av.open

    def open_(*arguments: Any, **options: Any) -> Any:
        if (order := due("encoder")) is not None:
            if order["what"] == "kill":
                kill()
            raise av.error.ExternalError(-542398533, "Generic error in an external library")
        return opened(*arguments, **options)

    av.open = open_


def _sabotage_disk() -> None:
    """There is no event for this one."""
    fsync = os.fsync

    def fsync_(handle: int) -> None:
        if _in_outbox(os.readlink(f"/proc/self/fd/{handle}") + os.sep):
            meet("outbox fsync")
        fsync(handle)

    os.fsync = fsync_  # type: ignore[assignment]


def main() -> None:
    """Serves the handler."""
    signal.signal(signal.SIGUSR1, tell_heap)
    sweep_timers()
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
