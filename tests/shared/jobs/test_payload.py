"""The payload of a completed job: what both deliveries of it agree in, and what receivers read in its metadata."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import numpy as np

from handlers.sdxl.request import SdxlRequest
from shared.contract.callback import CompletedPayload, to_dict
from shared.jobs.lifecycle import Job, run_job
from shared.jobs.recipe import ImageOutput, JobRun, Output, VideoOutput
from tests.shared.jobs.conftest import MakeWorker, job, run

TIMES = ("processing_time", "generation_time", "timings")


def images(request: SdxlRequest, run: JobRun) -> Generator[Output]:
    for seed in request.seeds:
        yield ImageOutput(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8), seed)


def clip(request: SdxlRequest, run: JobRun) -> Generator[Output]:
    yield VideoOutput([np.full((64, 64, 3), shade, dtype=np.uint8) for shade in range(9)], 8, request.seed)


def without_times(payload: CompletedPayload) -> dict[str, Any]:
    sent = to_dict(payload)
    metadata = {name: value for name, value in sent["metadata"].items() if name not in TIMES}
    return {**sent, "metadata": metadata, "completedAt": None}


def test_repeated_deliveries_without_a_seed_have_equal_payloads_but_for_times(make_worker: MakeWorker) -> None:
    worker = make_worker(images)
    payloads = [asyncio.run(run_job(job(num_images=3, seed=None), worker, run())).payload for _ in range(2)]
    first, second = (without_times(payload) for payload in payloads if isinstance(payload, CompletedPayload))
    assert first == second
    assert len({asset["generation_seed"] for asset in first["assets"]}) == 3


def test_a_clip_is_described_in_the_metadata_of_the_payload_too(make_worker: MakeWorker) -> None:
    metadata = to_dict(asyncio.run(run_job(Job("run-7", job().input), make_worker(clip), run())).payload)["metadata"]
    assert (metadata["frame_num"], metadata["fps"], metadata["duration_seconds"]) == (9, 8, 1.125)
    assert metadata["runpod_id"] == "run-7"


def test_images_have_no_length(make_worker: MakeWorker) -> None:
    metadata = to_dict(asyncio.run(run_job(job(), make_worker(images), run())).payload)["metadata"]
    assert not {"frame_num", "fps", "duration_seconds"} & set(metadata)
