"""A fork server for workers: imports their libraries once, then forks a process per request.

Importing torch, diffusers and transformers takes seconds of CPU time, a fork takes milliseconds. `playground/forked.py` is the client.
A fork differs from a fresh process only in what has been imported: environment, working directory, arguments and standard streams are those
of the request, and the module runs as `__main__`. When it ends, threads are joined and exit handlers are called as usual, but modules are
not torn down. The SDK is not imported here, because it reads the environment during its import.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Self

LIBRARIES = (
    "accelerate",
    "av",
    "diffusers.loaders.ip_adapter",
    "diffusers.models.controlnets.controlnet_union",
    "diffusers.pipelines.controlnet.pipeline_controlnet_union_sd_xl",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint",
    "diffusers.pipelines.wan.pipeline_wan_i2v",
    "diffusers.pipelines.wan.pipeline_wan_vace",
    "httpx",
    "peft",
    "PIL.Image",
    "pydantic_settings",
    "safetensors.torch",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.clip.modeling_clip",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.umt5.modeling_umt5",
)
HANDLERS = ("handlers.chat.handler", "handlers.sdxl.handler", "handlers.wan.handler")
"""Imported with the modules that they import to load their models. Only `shared/settings.py` reads the environment, and only when asked."""

MAX_REQUEST_BYTES = 128 * 1024

_PR_SET_PDEATHSIG = 1

_exit_code = 1  # of an uncaught exception


@dataclass(frozen=True)
class Request:
    """A module to run. Its standard streams are sent as file descriptors.

    Attributes:
        module: Runs as `__main__`.
        arguments: `sys.argv` without its first entry.
        folder: The working directory.
        environment: The whole environment.
    """

    module: str
    arguments: Sequence[str]
    folder: str
    environment: Mapping[str, str]

    def encode(self) -> bytes:
        """Returns the message for the server."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, message: bytes) -> Self:
        """Returns the request of a message."""
        return cls(**json.loads(message))

    def enter(self, streams: Sequence[int]) -> None:
        """Gives this fork the environment, working directory, arguments and streams of the request, and a session of its own."""
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.path[0] = self.folder
        sys.argv[:] = [self.module, *self.arguments]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tempfile.tempdir = None  # depends on TMPDIR
        # Replaces torch's thread pool, which does not survive a fork. Threads that do it at the same time find none and fail.
        importlib.import_module("torch").set_num_threads(1)
        importlib.import_module("numpy").random.seed()  # `random` is reseeded by every fork, this one is not

    def run(self) -> None:
        """Runs the module as `python -m` does."""
        global _exit_code
        sys.modules.pop(self.module, None)
        try:
            runpy.run_module(self.module, run_name="__main__", alter_sys=True)
            _exit_code = 0
        except SystemExit as error:
            _exit_code = 0 if error.code is None else error.code if isinstance(error.code, int) else 1
            raise


def import_all() -> None:
    """Imports everything that workers import, except the SDK.

    Raises:
        RuntimeError: An import started a thread. It would be missing in every fork.
    """
    from shared.settings import prepare_environment

    prepare_environment()
    with _silent():
        for name in LIBRARIES:
            importlib.import_module(name)
        for name in HANDLERS:
            with suppress(Exception):  # the fork that needs the module imports it again and reports the error
                for module in importlib.import_module(name).HANDLER.libraries:
                    importlib.import_module(module)
    importlib.import_module("torch").set_num_threads(1)
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        raise RuntimeError(f"{threads} threads are running")
    gc.collect()
    gc.freeze()  # or the garbage collector of each fork would write to every page, and so copy it


@contextmanager
def _silent() -> Iterator[None]:
    """Discards the warnings of libraries: handlers switch them off before they import these libraries."""
    errors, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(errors, 2)
        os.close(errors)
        os.close(null)


def serve(server: socket.socket, client: int) -> Request:
    """Forks a process per request until the client closes the connection. Returns in the forks only.

    Args:
        server: The connection.
        client: The process id of the client. It may have ended while this process imported, and left a request in the connection.
    """
    while True:
        message, streams, _flags, _address = socket.recv_fds(server, MAX_REQUEST_BYTES, 3)
        if not message:
            os._exit(0)
        if (pid := _fork()) == 0:
            server.close()
            _end_with(client)
            request = Request.decode(message)
            request.enter(streams)
            return request
        for stream in streams:
            os.close(stream)
        server.send(str(pid).encode())


def _fork() -> int:
    """Forks twice, so that the process is orphaned and becomes a child of the client, its nearest subreaper, which can then wait for it."""
    receiver, sender = os.pipe()
    if (between := os.fork()) == 0:
        parent = os.getpid()
        if (pid := os.fork()) == 0:
            os.close(receiver)
            os.close(sender)
            while os.getppid() == parent:
                time.sleep(0.0005)
            return 0
        os.write(sender, str(pid).encode())
        os._exit(0)
    os.waitpid(between, 0)  # from here on, the client is the parent
    pid = int(os.read(receiver, 32))
    os.close(receiver)
    os.close(sender)
    return pid


def _end_with(client: int) -> None:
    """Makes the kernel kill this fork when the client ends: one that outlives it would go on computing."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != client:
        os._exit(1)


def _skip_teardown() -> None:
    """Exits without tearing down thousands of imported modules, which takes 0.3 s. Called after all other exit handlers."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_exit_code)


def main() -> None:
    """Serves a client: the arguments are the file descriptor of the connection and its process id. Each fork runs its module."""
    atexit.register(_skip_teardown)  # handlers are called in the reverse order of their registration
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server, client = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    import_all()
    serve(server, client).run()


if __name__ == "__main__":
    main()
