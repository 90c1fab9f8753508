"""Measures a worker's start against `import torch`: `python -m benchmarks.start MODELS`.

A start is the time from the creation of the process to its first take request, with the small models of MODELS (`make models`). It
alternates with `python -c "import torch"` to its ordinary end. Besides the wall-clock time, which neighbours on the machine change, the
processor time is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from handlers import HANDLERS
from playground.forked import ROOT, initial_environment
from playground.gateway import worker_api
from playground.loopback import LoopbackServer, RequestHandler

_TIMEOUT = 300.0  # seconds


@dataclass(frozen=True)
class Start:
    """A start, as multiples of `import torch`: medians over the rounds.

    Attributes:
        wall: Of the wall-clock time.
        processor: Of the processor time.
    """

    wall: float
    processor: float


class _TakeServer(LoopbackServer):
    """Notes the first request for a job."""

    def __init__(self) -> None:
        super().__init__(_TakeHandler)
        self.taken = threading.Event()


class _TakeHandler(RequestHandler[_TakeServer]):
    def do_GET(self) -> None:
        if "/job-take" in self.path:  # or `job-take-batch`, where several jobs may be in flight
            self.service.taken.set()
            self.service.closing.wait()
        self.respond_json(200, {})  # the SDK pings before it asks for a job, and waits for the answer


def main(arguments: list[str] | None = None) -> int:
    """Prints the multiples of each handler as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("models", type=Path, metavar="MODELS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--handlers", nargs="+", choices=HANDLERS, default=HANDLERS)
    options = parser.parse_args(arguments)
    print(json.dumps({name: asdict(start) for name, start in measure(options.models, options.rounds, options.handlers).items()}, indent=2))
    return 0


def measure(models: Path, rounds: int, handlers: Sequence[str] = HANDLERS) -> dict[str, Start]:
    """Measures each handler. The first round warms up the page cache.

    Args:
        models: The MODELS_DIR.
        rounds: How often.
        handlers: Their names.
    """
    torch: list[tuple[float, float]] = []
    starts: dict[str, list[tuple[float, float]]] = {name: [] for name in handlers}
    for _ in range(rounds + 1):
        torch.append(_run(["-c", "import torch"], {}, None))
        for name in handlers:
            starts[name].append(_start(name, models))
    return {name: Start(*(_ratio(starts[name], torch, which) for which in (0, 1))) for name in handlers}


def _ratio(starts: Sequence[tuple[float, float]], torch: Sequence[tuple[float, float]], which: int) -> float:
    return round(statistics.median(start[which] / base[which] for start, base in list(zip(starts, torch, strict=True))[1:]), 2)


def _start(handler: str, models: Path) -> tuple[float, float]:
    with _TakeServer() as server, tempfile.TemporaryDirectory() as folder:
        variables = worker_api.environment(server.url, handler, "bench", "key") | {
            "MODELS_DIR": str(models.absolute()),
            "OUTPUT_DIR": folder,
            "OUTBOX_DIR": f"{folder}/outbox",
        }
        return _run(["-m", f"handlers.{handler}.handler"], variables, lambda: server.taken.wait(_TIMEOUT))


def _run(arguments: Sequence[str], variables: Mapping[str, str], done: Callable[[], bool] | None) -> tuple[float, float]:
    """Runs the interpreter.

    Args:
        arguments: Its command line.
        variables: More environment variables.
        done: Waits for the moment that ends the measurement and returns whether it came; the program is killed then. None for its own end.

    Returns:
        The seconds, and the processor seconds of the process and of its children that have ended.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**initial_environment(), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    came = done is None or done()
    seconds = time.monotonic() - started
    if done is not None:
        os.killpg(process.pid, signal.SIGKILL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # it is reaped
    if not came:
        raise SystemExit("the worker asked for no job; run it by hand to see why")
    return (time.monotonic() - started if done is None else seconds), usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    raise SystemExit(main())
