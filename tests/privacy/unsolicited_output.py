"""Triggers all output that our code does not write itself, with a secret in it: `python -m tests.privacy.unsolicited_output LEVEL`.

The sources are real: uncaught exceptions and Python's hooks for them, warnings, and the loggers of libraries.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

import httpx
import structlog

from shared.network import Deadline, RequestFailed, RetryPolicy, retrying
from shared.telemetry import configure_logging, logger

CANARY = "canary-in-a-text"
URL = f"https://127.0.0.1:1/x?token={CANARY}"

LOGGERS = (
    "httpx", "httpcore.http11", "hpack.hpack", "aiohttp.client", "asyncio", "PIL.PngImagePlugin", "stamina",
    "transformers.modeling_utils", "diffusers.pipelines", "huggingface_hub.file_download", "torch._dynamo", "torch.distributed",
    "safetensors", "storage3", "filelock", "py.warnings", "an_unknown_library",
)  # fmt: skip


def _fail() -> NoReturn:
    httpx.Response(403, request=httpx.Request("GET", URL)).raise_for_status()
    raise AssertionError("the line above raises")


def uncaught() -> None:
    _fail()


def in_a_thread() -> None:
    thread = threading.Thread(target=_fail)
    thread.start()
    thread.join()


def in_a_finalizer() -> None:
    class Finalized:
        def __del__(self) -> None:
            raise RuntimeError(CANARY)

    Finalized()
    gc.collect()


def in_an_unawaited_task() -> None:
    async def work() -> None:
        raise RuntimeError(CANARY)

    async def main() -> None:
        task = asyncio.ensure_future(work())
        del task
        await asyncio.sleep(0)

    asyncio.run(main())
    gc.collect()


def in_an_event_loop_callback() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(_fail)
        await asyncio.sleep(0.01)

    asyncio.run(main())


def as_a_warning() -> None:
    warnings.warn(CANARY, stacklevel=1)
    warnings.warn_explicit(CANARY, RuntimeWarning, f"/home/{CANARY}/module.py", 7)


def by_libraries() -> None:
    import diffusers.utils.logging
    import huggingface_hub.utils.logging
    import torch._logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, huggingface_hub.utils.logging, transformers.utils.logging):
        library.get_logger("x")
    torch._logging.set_logs(all=logging.INFO)  # type: ignore[attr-defined]
    for name in LOGGERS:
        log = logging.getLogger(name)
        log.setLevel(logging.INFO)
        for level in (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            log.log(level, "%s and %s", CANARY, {"token": CANARY})
            log.log(level, CANARY, stack_info=True)
        try:
            _fail()
        except httpx.HTTPStatusError:
            log.exception(CANARY)


def by_a_library_with_its_own_handler() -> None:
    log = logging.getLogger("its.own")
    log.addHandler(logging.StreamHandler())
    log.propagate = False
    log.error(CANARY, exc_info=RuntimeError(CANARY))


def by_a_request() -> None:
    """httpx logs full URLs at INFO."""
    transport = httpx.MockTransport(lambda _request: httpx.Response(200))
    with httpx.Client(transport=transport) as client:
        client.get(URL)


def by_a_retry() -> None:
    """stamina logs the cause of each retry."""
    for attempt in retrying(Deadline(5), RetryPolicy(attempts=2, initial_backoff=0.01, max_backoff=0.01)):
        with attempt:
            if attempt.num == 1:
                try:
                    httpx.get(URL, trust_env=False)
                except httpx.TransportError:
                    raise RequestFailed("the connection failed", retryable=True) from None


def by_logging_an_exception() -> None:
    try:
        _fail()
    except httpx.HTTPStatusError as error:
        logger().error("a line with an error", exc_info=error)
        logger().warning("a line with an error", exc_info=sys.exc_info())
        logger().exception("a line with an error")
        structlog.get_logger().critical("a line with an error", exc_info=True)


def by_faulthandler() -> None:
    secret = CANARY  # a local variable of a dumped frame
    faulthandler.dump_traceback(sys.stderr)
    assert secret


SOURCES: dict[str, Callable[[], None]] = {
    source.__name__: source
    for source in (
        in_a_thread,
        in_a_finalizer,
        in_an_unawaited_task,
        in_an_event_loop_callback,
        as_a_warning,
        by_libraries,
        by_a_library_with_its_own_handler,
        by_a_request,
        by_a_retry,
        by_logging_an_exception,
        by_faulthandler,
        uncaught,  # last, because it ends the process
    )
}

if __name__ == "__main__":
    configure_logging(sys.argv[1])
    for name, trigger in SOURCES.items():
        for stream in (sys.stdout, sys.stderr):
            print(f"=== {name}", file=stream, flush=True)
        trigger()
