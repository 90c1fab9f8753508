"""Runs transfers in parallel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

from shared.weights.hub import DownloadError

OnProgress = Callable[[int], None]
"""Receives the number of bytes of each chunk, on the thread of the transfer. An exception that it raises ends the transfer."""


class _Stopped(DownloadError):
    """A transfer ended because another one failed."""


def run_transfers(transfers: Sequence[Callable[[OnProgress], None]], on_progress: OnProgress, threads: int) -> None:
    """Runs transfers in parallel. When one fails, or on a keyboard interrupt, the others stop at their next chunk or do not begin."""
    stop = threading.Event()

    def report(count: int) -> None:
        if stop.is_set():
            raise _Stopped("Stopped.")
        on_progress(count)

    def run(transfer: Callable[[OnProgress], None]) -> None:
        report(0)
        transfer(report)

    def on_end(future: Future[None]) -> None:
        if not future.cancelled() and future.exception() is not None:
            stop.set()

    with ThreadPoolExecutor(threads, thread_name_prefix="download") as pool:
        futures = [pool.submit(run, transfer) for transfer in transfers]
        try:
            for future in futures:
                future.add_done_callback(on_end)
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    errors = [error for future in futures if not future.cancelled() and (error := future.exception()) is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, _Stopped)), errors[0])
