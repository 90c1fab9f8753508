"""Whatever a client sends to whichever model: a completion or one of the listed errors, and the engine serves the next conversation."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.handler import HANDLER
from handlers.chat.recipe import ChatRecipe, ChatSettings
from handlers.chat.request import ChatRequest
from shared.fetch import Fetcher
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Completed, Failed, Job, Worker, run_job
from shared.jobs.recipe import JobRun
from shared.settings import Settings
from shared.storage.local_disk import LocalDisk
from shared.webhooks import Webhook
from tests.fuzzing.conversations.models import KINDS, chat_model
from tests.fuzzing.conversations.requests import RequestGenerator
from tests.fuzzing.conversations.templates import TEMPLATES
from tests.handlers.chat.engine_fixtures import ask, complete, engine_of
from tests.shared.jobs.conftest import ignore_progress

BATCH = 8
"""Conversations at once."""
BEFORE_WORK = {"VALIDATION_ERROR", "CONTEXT_LENGTH_EXCEEDED", "MODEL_UNAVAILABLE"}
INTENDED = BEFORE_WORK | {"completed", "GENERATION_ERROR"}
COMBINATIONS = [(kind, name) for name in TEMPLATES for kind in KINDS]
EVERYDAY = [(KINDS[index % len(KINDS)], name) for index, name in enumerate(TEMPLATES)]
"""Each template with one kind of tokenizer."""


class ChatWorker:
    """Runs chat jobs concurrently, as a worker does."""

    def __init__(self, engine: TransformersEngine, folder: Path, threads: ThreadPoolExecutor, gpu: GpuThread) -> None:
        settings, disk = Settings(), LocalDisk(folder)
        callbacks = CallbackDispatcher(disk, Webhook(settings), threads, always_callback=False, send_processing=False)
        self._numbers = count()
        self._worker: Worker[Any] = Worker(
            id="worker",
            request=HANDLER.request,
            recipe=ChatRecipe(engine, ChatSettings(("damn",))),
            operator=HANDLER.operator(settings),
            storage=disk,
            fetcher=Fetcher(settings),
            callbacks=callbacks,
            gpu=gpu,
            concurrency=BATCH,
            types_of=HANDLER.types_of_job,
        )

    def run(self, inputs: list[dict[str, Any]]) -> list[tuple[Completed | Failed, str]]:
        """Runs jobs at the same time; returns how each has ended, and its streamed text."""
        return asyncio.run(self._run_all(inputs))

    async def _run_all(self, inputs: list[dict[str, Any]]) -> list[tuple[Completed | Failed, str]]:
        return await asyncio.gather(*map(self._run, inputs))

    async def _run(self, given: dict[str, Any]) -> tuple[Completed | Failed, str]:
        pieces: list[Any] = []
        job = Job(f"job-{next(self._numbers)}", given)
        outcome = await run_job(job, self._worker, JobRun(job.id, CancelToken(100), ignore_progress, pieces.append))
        assert isinstance(outcome, Completed | Failed)
        for response in HANDLER.present(job.id, given).final(outcome):
            json.dumps(response, allow_nan=False)
        return outcome, "".join(piece.text for piece in pieces if piece.index == 0)


@contextmanager
def worker_of(engine: TransformersEngine, folder: Path) -> Iterator[ChatWorker]:
    with GpuThread(BATCH) as gpu, ThreadPoolExecutor(2) as threads:
        yield ChatWorker(engine, folder, threads, gpu)


def end_of(given: dict[str, Any], outcome: Completed | Failed, streamed: str) -> str:
    """Returns `completed` or the error's code. A stream of a completed job has its text, and a whole text follows its constraint."""
    if isinstance(outcome, Failed):
        return outcome.payload.metadata.error_code
    payload: Any = outcome.payload.model_dump(mode="json")
    assert streamed in ("", payload["response"])
    constraint = ChatRequest.parse(given, job_id="job").constraint
    for text in [asset["content"] for asset in payload["assets"] if asset["metadata"]["finish_reason"] == "stop"]:
        if constraint is not None and constraint.kind == "json":
            json.loads(text)
        if constraint is not None and constraint.kind == "choice":
            assert text in constraint.value
    return "completed"


def fuzz(kind: str, name: str, batches: int, folder: Path) -> Counter[str]:
    """Runs batches of conversations with one model, and counts how they have ended."""
    ends: Counter[str] = Counter()
    model = chat_model(kind, TEMPLATES[name])
    with engine_of(model) as engine, worker_of(engine, folder) as worker:
        before = complete(engine, ask("hello"))
        generator = RequestGenerator(f"{kind}, {name}", TEMPLATES[name], len(model.tokenizer))
        for _ in range(batches):
            inputs = [generator.draw() for _ in range(BATCH)]
            for given, (outcome, streamed) in zip(inputs, worker.run(inputs), strict=True):
                end = end_of(given, outcome, streamed)
                assert end in INTENDED, (end, outcome.payload, given)
                ends[end] += 1
        assert complete(engine, ask("hello")).text == before.text
    return ends


@pytest.mark.parametrize(("kind", "name"), EVERYDAY)
def test_no_conversation_has_another_end_than_a_completion_or_a_listed_error(kind: str, name: str, tmp_path: Path) -> None:
    assert fuzz(kind, name, 1, tmp_path)["completed"] >= 1


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "name"), COMBINATIONS)
def test_ten_thousand_conversations_of_all_combinations_have_no_other_end(kind: str, name: str, tmp_path: Path) -> None:
    batches = -(-10_000 // len(COMBINATIONS) // BATCH)
    ends = fuzz(kind, name, batches, tmp_path)
    assert ends["completed"] >= ends.total() // 10, ends
