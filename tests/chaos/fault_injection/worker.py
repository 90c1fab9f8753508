"""A worker with a real handler on small models in the real SDK, into which faults can be injected.

`FAULTS_HANDLER` selects the handler: `sdxl`, `wan`, `chat`, or `stub`, which needs no model. Device faults are raised inside of a network
while it computes. Audit hooks and patched functions of the standard library act below the product: they log every connection, override
DNS, redirect connections to public addresses, and kill the process at file operations of the outbox. `injection.py` names the files that
control them. `FAULTS_AUTHORITY` is the only certificate authority that the worker trusts.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
from dataclasses import replace
from typing import Any

from tests.chaos.fault_injection.injection import CONNECTIONS, NAMES, ROUTES, inject_into, kill, kill_if_due, pop_fault
from tests.chaos.fault_injection.memory import purge_cancelled_timers, report_heap

_getaddrinfo, _create_connection = socket.getaddrinfo, socket.create_connection

_OUTBOX_EVENTS = {"open": "outbox open", "os.rename": "outbox rename", "os.remove": "outbox remove"}
"""Audit events of file operations, and the targets that they are for the outbox."""


def _resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
    """`socket.getaddrinfo` with the overrides of `names.json`: each lookup takes the next list of addresses, and the last one stays."""
    name = host.decode() if isinstance(host, bytes) else str(host)
    names = json.loads(NAMES.read_text()) if NAMES.exists() else {}
    if name not in names:
        return _getaddrinfo(host, port, *rest, **more)
    addresses = names[name].pop(0) if len(names[name]) > 1 else names[name][0]
    NAMES.write_text(json.dumps(names))
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]


def _routes() -> dict[str, int]:
    routes: dict[str, int] = json.loads(ROUTES.read_text()) if ROUTES.exists() else {}
    return routes


def _connect(address: tuple[str, int], *rest: Any, **more: Any) -> socket.socket:
    """`socket.create_connection` with the routes of `routes.json` for port 443."""
    host, port = address
    return _create_connection(("127.0.0.1", _routes()[host]) if port == 443 and host in _routes() else address, *rest, **more)


def _requested_address(host: Any, port: int) -> str:
    """Returns the address that a connection was meant for, before it was routed."""
    public = {routed: f"{address} 443" for address, routed in _routes().items()}
    return public.get(port, f"{host} {port}")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: logs connections, refuses those that leave the machine, and kills the process at file operations of the outbox."""
    if event in _OUTBOX_EVENTS and _in_outbox(_path(event, arguments)):
        kill_if_due(_OUTBOX_EVENTS[event])
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        with CONNECTIONS.open("a") as log:
            log.write(f"{_requested_address(*arguments[1][:2])}\n")
        if not str(arguments[1][0]).startswith(("127.", "::1", "localhost")):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")


def _path(event: str, arguments: tuple[Any, ...]) -> object:
    """Returns the file that an event concerns, given by its path or by a name relative to a directory descriptor."""
    if event != "os.remove" or arguments[1] < 0:
        return arguments[0]
    return os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), arguments[0])


def _in_outbox(path: object) -> bool:
    return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(os.environ.get("OUTBOX_DIR", "outbox") + os.sep)


def _networks(handler: str, recipe: Any) -> dict[str, Any]:
    """Returns the networks of a loaded recipe that faults can be injected into."""
    import torch

    if handler == "wan":
        return {"denoiser": recipe._pipelines.text_to_video.transformer, "decoder": recipe._pipelines.text_to_video.vae.decoder}
    if handler == "sdxl":
        return {"denoiser": recipe._pipeline.unet, "decoder": recipe._pipeline.vae.decoder}
    if handler == "chat":
        return {"writer": recipe.engine._pool.batches["qwen_instruct"]._model}
    denoiser = torch.nn.Identity()
    recipe.on_step = lambda: denoiser(torch.zeros(1))
    return {"denoiser": denoiser}


def _patch_image_encoder() -> None:
    from PIL import Image

    save = Image.Image.save

    def save_(*arguments: Any, **options: Any) -> None:
        kill_if_due("encoder")
        save(*arguments, **options)

    Image.Image.save = save_  # type: ignore[method-assign]


def _patch_video_encoder() -> None:
    """Makes PyAV raise FFmpeg's own error."""
    import av

    original = av.open

    def open_(*arguments: Any, **options: Any) -> Any:
        if (fault := pop_fault("encoder")) is not None:
            if fault == "kill":
                kill()
            raise av.error.ExternalError(-542398533, "Generic error in an external library")
        return original(*arguments, **options)

    av.open = open_


def _patch_fsync() -> None:
    """Covers `os.fsync`, which has no audit event."""
    fsync = os.fsync

    def fsync_(handle: int) -> None:
        if _in_outbox(os.readlink(f"/proc/self/fd/{handle}") + os.sep):
            kill_if_due("outbox fsync")
        fsync(handle)

    os.fsync = fsync_  # type: ignore[assignment]


def _unload_product() -> None:
    """Unloads the product, which a fork server may have imported: its modules bind the original functions as default arguments."""
    for name in [name for name in sys.modules if name.partition(".")[0] in {"shared", "handlers"}]:
        del sys.modules[name]


def main() -> None:
    """Installs the hooks and serves the handler."""
    signal.signal(signal.SIGUSR1, report_heap)
    purge_cancelled_timers()
    sys.addaudithook(_audit)
    socket.getaddrinfo, socket.create_connection = _resolve, _connect  # type: ignore[assignment]
    _unload_product()
    import importlib

    import certifi

    certifi.where = lambda: os.environ["FAULTS_AUTHORITY"]
    name = os.environ["FAULTS_HANDLER"]
    handler = importlib.import_module("tests.doubles.stub_worker" if name == "stub" else f"handlers.{name}.handler").HANDLER
    from shared.serverless import serve

    def load(settings: Any) -> Any:
        recipe = handler.load(settings)
        for network_name, network in _networks(name, recipe).items():
            inject_into(network_name, network)
        return recipe

    if name == "wan":
        _patch_video_encoder()
    _patch_image_encoder()
    _patch_fsync()
    serve(replace(handler, load=load))


if __name__ == "__main__":
    main()
