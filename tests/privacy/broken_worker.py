"""A worker in which RunPod's SDK raises an error that contains a secret: `python -m tests.privacy.broken_worker`."""

from __future__ import annotations

from typing import NoReturn

from shared.runpod_sdk import start_sdk
from shared.telemetry import configure_logging


def _fail(_concurrency: int) -> NoReturn:
    raise RuntimeError("canary-in-the-sdk")


if __name__ == "__main__":
    configure_logging("INFO")
    start_sdk({"handler": lambda _job: {}, "concurrency_modifier": _fail})
