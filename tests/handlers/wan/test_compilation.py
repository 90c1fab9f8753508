"""The transformers' blocks are compiled while the worker is idle; jobs run uncompiled until they are ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.wan.compilation import compiled_transformers
from handlers.wan.recipe import WanRecipe
from handlers.wan.weights.load import WanPipelines, load_wan
from shared.errors import Cancelled
from shared.media.images import Pixels
from shared.weights.addons import AddonLibrary
from tests.handlers.conftest import RecordedRun, clip, generate, wan

REFERENCES = {"config.first_frame": Image.new("RGB", (64, 64), "red")}


class CountingBackend:
    """A compiler that keeps each graph as it is, and counts graphs and their runs."""

    graphs = runs = 0

    def __call__(self, module: Any, _inputs: object) -> Any:
        self.graphs += 1

        def run(*inputs: Any) -> Any:
            self.runs += 1
            return module.forward(*inputs)

        return run


class CompiledWorker:
    """A recipe whose transformers are compiled by a backend."""

    def __init__(self, folder: Path, backend: Any) -> None:
        torch._dynamo.reset()
        self.pipelines: WanPipelines = load_wan(folder, torch.device("cpu"), torch.float32)
        self._compiled = compiled_transformers(self.pipelines, shapes=((3, 8, 8), (1, 6, 10)), backend=backend)
        self.recipe = WanRecipe(self.pipelines, AddonLibrary(folder), compiled=self._compiled)

    def compile(self) -> None:
        if not all(blocks.is_ready for blocks in self._compiled.values()):
            for piece in self.recipe.idle_work():
                piece()

    def job(self, *, referenced: bool = False, **config: Any) -> tuple[Pixels, Any]:
        """The frames and the accelerations."""
        given: dict[str, Any] = {"first_frame": "https://a.example/first.png"} if referenced else {}
        request = wan(**({"steps": 2, "guidance_scale": 3.0} | given | config))
        (made,) = generate(self.recipe, request, references=REFERENCES if referenced else None)
        return np.stack(list(clip([made]).frames)), made.metadata.get("accelerated_by")


@pytest.fixture(scope="module")
def backend() -> CountingBackend:
    return CountingBackend()


@pytest.fixture(scope="module")
def worker(tiny_models: Path, backend: CountingBackend) -> CompiledWorker:
    """Before it has compiled anything."""
    return CompiledWorker(tiny_models / "wan", backend)


def test_jobs_run_uncompiled_until_the_idle_worker_has_compiled_and_then_compile_nothing(
    worker: CompiledWorker, backend: CountingBackend
) -> None:
    before, accelerations = worker.job()
    assert (accelerations, backend.graphs) == ([], 0)
    worker.compile()
    compiled = backend.graphs
    assert 0 < compiled <= 6
    after, accelerations = worker.job()
    assert accelerations == ["compiled_blocks"]
    assert np.array_equal(after, before)
    transformer = worker.pipelines.vace.transformer
    for job in ({"frames": 5}, {"width": 96, "frames": 13}, {"guidance_scale": 1.0}, {"referenced": True}, {"prompt": "ink " * 600}):
        backend.runs = 0
        assert worker.job(**job)[1] == ["compiled_blocks"]
        blocks = len(transformer.blocks) + (len(transformer.vace_blocks) if "referenced" in job else 0)
        assert backend.runs == blocks * 2 * (1 if "guidance_scale" in job else 2)
    assert backend.graphs == compiled


def test_a_job_without_acceleration_or_with_a_cache_runs_uncompiled_blocks(worker: CompiledWorker) -> None:
    worker.compile()
    blocks = list(worker.pipelines.text_to_video.transformer.blocks)
    seen: list[bool] = []
    handle = blocks[0].attn1.to_q.register_forward_hook(lambda *_: seen.append(blocks[0]._compiled_call_impl is not None))
    try:
        assert worker.job(acceleration="none")[1] is None
        assert worker.job(acceleration="mag_cache")[1] == ["mag_cache"]
    finally:
        handle.remove()
    assert seen
    assert not any(seen)


def test_a_cancelled_job_leaves_no_compiled_block(worker: CompiledWorker) -> None:
    worker.compile()
    with pytest.raises(Cancelled):
        generate(worker.recipe, wan(steps=4), RecordedRun(stop_at=2))
    assert all(module._compiled_call_impl is None for pipeline in worker.pipelines.all for module in pipeline.transformer.modules())


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_compiled_clips_differ_by_one_level_at_most(tiny_models: Path) -> None:
    worker = CompiledWorker(tiny_models / "wan", "inductor")
    before, _ = worker.job()
    worker.compile()
    after, accelerations = worker.job()
    assert accelerations == ["compiled_blocks"]
    assert np.abs(after.astype(int) - before).max() <= 1
