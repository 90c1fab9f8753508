"""Counts the source files that one plain SDXL job enters: `python -m benchmarks.files_entered MODELS_DIR`.

A file counts if one of its functions is called between the RunPod SDK's call of the endpoint and its response, on any thread. The worker is
already loaded, its storage is the local disk, and the job has neither callbacks nor references. The count measures how much code one has to
read to follow a job.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.local_worker import local_worker
from handlers.sdxl.handler import HANDLER
from shared.jobs.execution.gpu import GpuThread
from shared.serverless import _Endpoint
from shared.settings import Settings, prepare_environment
from shared.telemetry import configure_logging

ROOT = Path(__file__).parents[1]
PACKAGES = ("handlers", "shared")
JOB: dict[str, Any] = {
    "id": "plain",
    "input": {
        "id": "plain",
        "user_id": "user",
        "type": "sdxl_image_fast",
        "prompt": "a red circle",
        "config": {"width": 64, "height": 64, "steps": 10, "seed": 1},
    },
}


def main() -> None:
    """Prints the number and the list of files. The first argument is the MODELS_DIR."""
    prepare_environment()
    configure_logging("ERROR")
    files = files_entered(Path(sys.argv[1]))
    print(len(files))
    print("\n".join(files))


def files_entered(models: Path) -> list[str]:
    """Runs the job and returns the files that it enters, relative to the repository.

    Args:
        models: The MODELS_DIR.
    """
    with tempfile.TemporaryDirectory() as folder, local_worker("sdxl", models, Path(folder)) as worker:
        endpoint = _Endpoint(HANDLER, worker, Settings(models_dir=models, output_dir=Path(folder)))
        with _recorded_files(worker.gpu) as files:
            response = asyncio.run(endpoint.complete(JOB))
    if not isinstance(response, dict) or response.get("status") != "completed":
        raise RuntimeError(f"the job did not complete: {response}")
    return sorted(files)


@contextmanager
def _recorded_files(gpu: GpuThread) -> Iterator[set[str]]:
    """Records calls on this thread, on the GPU thread, and on all threads started while the body runs."""
    files: set[str] = set()
    prefixes = tuple(f"{ROOT / package}/" for package in PACKAGES)

    def record(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        # The body of a module is its import, not a call.
        if event == "call" and code.co_filename.startswith(prefixes) and code.co_name != "<module>":
            files.add(str(Path(code.co_filename).relative_to(ROOT)))

    _set_profile(record, gpu)
    try:
        yield files
    finally:
        _set_profile(None, gpu)


def _set_profile(profile: Any, gpu: GpuThread) -> None:
    gpu.submit(lambda: sys.setprofile(profile)).result()
    threading.setprofile(profile)
    sys.setprofile(profile)


if __name__ == "__main__":
    main()
