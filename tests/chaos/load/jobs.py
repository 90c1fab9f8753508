"""Numbered jobs that differ in seed, size, number of images, references and adapters."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from tests.chaos.load.harness import Job, LoadHarness
from tests.doubles.image_server import answers
from tests.doubles.jobs import PROMPT_CANARY

_SIZES = ("64x64", "64x96", "96x64", "128x64")
_FORMATS = ("png", "webp", "jpeg")
_SCHEDULERS = (None, "euler_a", "dpmpp_2m_karras", "ddim", "lcm")
_SOLVERS = ("unipc", "dpm++", "euler")
Fields = dict[str, Any]


def image_of(number: int) -> bytes:
    """Returns a PNG that depends on the number."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).resize((96, 96), Image.Resampling.NEAREST).save(content, "PNG")
    return content.getvalue()


def sdxl_job(harness: LoadHarness, number: int) -> Job:
    """Returns the SDXL job with this number."""
    reference = harness.storage.serve(f"/images/{number}.png", answers(image_of(number)))
    variants: list[tuple[Fields, Fields]] = [
        ({}, {}),
        ({"loras": [{"name": "stripes", "scale": 0.6 + number % 5 / 10}]}, {}),
        ({}, {"reference_image_url": reference, "denoise_strength": 0.8}),
        ({"controls": [{"kind": "canny", "image": reference, "strength": 0.7}]}, {}),
        ({"num_images": 3}, {}),
        ({}, {"reference_image_url": reference, "reference_type": "style"}),
        ({"num_images": 3, "loras": [{"name": "stripes", "scale": 1.0}]}, {"reference_image_url": reference, "denoise_strength": 0.7}),
    ]
    config, metadata = variants[number % len(variants)]
    settings = {
        "resolution": _SIZES[number % len(_SIZES)],
        "steps": 10 + number % 3,
        "seed": 1000 * number + 7,
        "guidance_scale": 2.0 + number % 4,
        "output_format": _FORMATS[number % len(_FORMATS)],
        "scheduler": _SCHEDULERS[number % len(_SCHEDULERS)],
    }
    return _job(harness, number, {"type": "sdxl_image_fast", "config": settings | config, "metadata": metadata})


def wan_job(harness: LoadHarness, number: int) -> Job:
    """Returns the WAN job with this number."""
    reference = harness.storage.serve(f"/images/{number}.png", answers(image_of(number)))
    variants: list[Fields] = [{}, {"first_frame": reference, "reference_mode": "start"}, {"image": reference, "reference_mode": "single"}]
    settings = {
        "width": 64 + 16 * (number % 2),
        "height": 64,
        "frames": 5 + number % 4,
        "fps": 8 + number % 5,
        "steps": 2 + number % 2,
        "seed": 1000 * number + 7,
        "guidance_scale": 2.0 + number % 4,
        "sample_solver": _SOLVERS[number % len(_SOLVERS)],
    }
    return _job(harness, number, {"type": "video_fast", "config": settings | variants[number % len(variants)]})


def _job(harness: LoadHarness, number: int, fields: Fields) -> Job:
    """Every third job uses the configured receiver, the others name one of the job receivers."""
    job_id = f"job-{number}"
    callback = {"callback_url": f"{harness.job_receivers[number % 3 - 1].url}?job={job_id}"} if number % 3 else {}
    request = {"id": job_id, "user_id": f"user-{number % 4}", "prompt": f"a red circle {number}, {PROMPT_CANARY}", **callback, **fields}
    return {"id": job_id, "input": request}


def with_id(job: Job, job_id: str) -> Job:
    """Returns the same job under another id."""
    return {"id": job_id, "input": {**job["input"], "id": job_id}}
