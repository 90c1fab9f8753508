"""A VAE in place of the checkpoint's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.vae_files import load_vae
from shared.models.device import memory_footprint
from shared.models.persistent_tensors import ordinary_tensors
from shared.weights.addons import AddonLibrary


def check(request: SdxlRequest, addons: AddonLibrary) -> None:
    """Refuses a VAE that is not installed.

    Raises:
        ModelUnavailable: Names the field and the alternatives.
    """
    assert request.vae is not None
    addons.find("vaes", request.vae)


@contextmanager
def apply(job: JobPipeline, request: SdxlRequest) -> Iterator[None]:
    """Replaces the pipeline's VAE while the body runs.

    Raises:
        ModelUnavailable: The VAE is unusable. The pipeline is unchanged.
    """
    assert request.vae is not None
    pipeline = job.pipeline
    own = pipeline.vae
    pipeline.vae = _load(request.vae, job)
    job.metadata["vae"] = request.vae
    try:
        yield
    finally:
        pipeline.vae = own


def _load(name: str, job: JobPipeline) -> Any:
    """Loads a VAE, from the cache if possible."""
    unet, own = job.pipeline.unet, job.pipeline.vae.config

    def read(path: Path) -> Any:
        with ordinary_tensors():  # the cache keeps it for later jobs, one of which may have to upcast it
            return load_vae(path, own, name=f"vaes/{name}", device=unet.device, dtype=unet.dtype)

    return job.addons.load("vaes", name, read, memory_footprint)
