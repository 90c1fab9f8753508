"""Throughput of the inference engines on a CPU, side by side: `make bench-chat`.

transformers' `generate`, the built-in engine, and vLLM through whole jobs, through the worker's engine and called directly take turns. On a
busy machine even ratios depend on how the kernel shares the processor; the last column compares seconds of processor time, in which
vLLM's own processes count only while they compute. vLLM is left out where `make vllm` has not installed it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]  # its types are a package of their own
import torch

from benchmarks.chat_batching import generate_one
from benchmarks.local_worker import bench_run, local_worker
from handlers.chat.engine import InferenceEngine
from handlers.chat.engines.openai_server.engine import OpenAIServerEngine
from handlers.chat.engines.transformers.chat_format import ModelSpec
from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel, load_chat
from handlers.chat.engines.vllm.load import start
from handlers.chat.recipe import ChatRecipe, ChatSettings
from handlers.chat.request import ChatRequest
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Completed, Job, Outcome, run_job
from shared.settings import Settings, prepare_environment
from shared.telemetry import configure_logging

_CONVERSATIONS = (1, 4, 16, 32)
_MODEL = "qwen_instruct"
_BUILT_IN, _DIRECT = "built-in engine", "vLLM, called directly"


@dataclass(frozen=True)
class Run:
    """One run: tokens generated, seconds, seconds until every conversation had its first token, and seconds of processor time."""

    tokens: int
    seconds: float
    first: float
    processor: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


Complete = Callable[[ChatRequest], tuple[int, float]]
"""Completes one request; returns its tokens and the seconds until the first."""
Contender = Callable[[Sequence[ChatRequest]], Run]


def main() -> None:
    """Prints a table for each number of conversations."""
    options = _options()
    prepare_environment()
    configure_logging("ERROR")
    folder = options.models / _MODEL
    model, reference = (load_chat(folder, torch.device("cpu"), getattr(torch, options.dtype), fused=fused) for fused in (True, False))
    engine = TransformersEngine([ModelSpec(_MODEL, lambda: model)])
    contenders: dict[str, Contender] = {_BUILT_IN: partial(_run, partial(_complete, engine))}
    with _vllm(options, folder) as vllm:
        if vllm is not None:
            contenders["vLLM, whole jobs"] = partial(_run_jobs, vllm)
            contenders["vLLM, the engine"] = partial(_run, partial(_complete, vllm))
            contenders[_DIRECT] = partial(_run, partial(_complete_directly, vllm))
        for contender in contenders.values():
            contender(_requests(1, 8))  # warm up
        for count in options.conversations:
            _compare(reference, contenders, _requests(count, options.tokens), options.rounds)
    engine.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--conversations", type=int, nargs="+", default=_CONVERSATIONS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--vllm", type=Path, default=Path(".vllm-venv/bin/python"), help="vLLM's Python")
    return parser.parse_args()


@contextmanager
def _vllm(options: argparse.Namespace, folder: Path) -> Iterator[OpenAIServerEngine | None]:
    """Starts vLLM without its compilation, which takes minutes in half precision."""
    if not options.vllm.exists():
        print("vLLM is not installed: run `make vllm`")
        yield None
        return
    settings = Settings(
        chat_engine="vllm",
        chat_vllm_python=options.vllm.absolute(),
        chat_dtype=options.dtype,
        chat_vllm_arguments="--enforce-eager",
        chat_cache_gb=2.0,
        chat_engine_concurrency=max(_CONVERSATIONS),
    )
    engine = start(settings, {_MODEL: folder})
    try:
        yield engine
    finally:
        engine.close()


def _requests(count: int, tokens: int) -> list[ChatRequest]:
    return [ChatRequest.parse(_fields(number, tokens), job_id="j") for number in range(count)]


def _fields(number: int, tokens: int) -> dict[str, Any]:
    return {"prompt": f"Tell me a long story about {number} herons.", "max_tokens": tokens, "min_tokens": tokens, "temperature": 0}


def _complete(engine: InferenceEngine, request: ChatRequest) -> tuple[int, float]:
    engine.check(request)
    with engine.submit(request, CancelToken(3600)) as stream:
        for _ in stream:
            pass
        return stream.completion.completion_tokens, stream.completion.time_to_first_token


def _complete_directly(engine: OpenAIServerEngine, request: ChatRequest) -> tuple[int, float]:
    """Sends the body that the worker would send, and reads the stream without looking at it."""
    model = engine.served[request.model]
    prepared = model.completion_request(request)
    started, first = time.perf_counter(), 0.0
    with (
        httpx.Client(trust_env=False, timeout=3600) as client,
        client.stream("POST", model.connection.url + prepared.path, json=dict(prepared.body)) as response,
    ):
        for _ in response.iter_raw():
            first = first or time.perf_counter() - started
    return request.max_tokens, first


def _run(complete: Complete, requests: Sequence[ChatRequest]) -> Run:
    started = time.perf_counter()
    with ThreadPoolExecutor(len(requests)) as threads:
        completed = list(threads.map(complete, requests))
    return Run(sum(tokens for tokens, _ in completed), time.perf_counter() - started, max(first for _, first in completed))


def _run_jobs(engine: OpenAIServerEngine, requests: Sequence[ChatRequest]) -> Run:
    """Completes requests as whole jobs: validation, generation, storage on local disk, payload."""
    with (
        tempfile.TemporaryDirectory() as folder,
        GpuThread(len(requests)) as gpu,
        local_worker("chat", Path(folder), Path(folder), ChatRecipe(engine, ChatSettings())) as worker,
    ):
        own = replace(worker, gpu=gpu, concurrency=len(requests))

        async def run_all() -> list[Outcome]:
            jobs = [Job(f"job-{number}", _fields(number, request.max_tokens)) for number, request in enumerate(requests)]
            return await asyncio.gather(*(run_job(job, own, bench_run()) for job in jobs))

        started = time.perf_counter()
        metadata: list[Any] = [outcome.payload.assets[0].metadata for outcome in asyncio.run(run_all()) if isinstance(outcome, Completed)]
        seconds = time.perf_counter() - started
    return Run(sum(each.tokens_generated for each in metadata), seconds, max(each.time_to_first_token for each in metadata))


def _compare(reference: ChatModel, contenders: Mapping[str, Contender], requests: Sequence[ChatRequest], rounds: int) -> None:
    runs: dict[str, list[Run]] = {"generate, one by one": [], **{name: [] for name in contenders}}
    for _ in range(rounds):
        started = time.perf_counter()
        tokens = generate_one(reference, requests[0])  # its rate does not depend on their number
        runs["generate, one by one"].append(Run(tokens, time.perf_counter() - started, 0.0))
        for name, contender in contenders.items():
            # vLLM's processes poll while they are idle: that is not the built-in engine's time.
            started = _processor_time(children=name != _BUILT_IN)
            run = contender(requests)
            runs[name].append(replace(run, processor=_processor_time(children=name != _BUILT_IN) - started))
    print(f"{len(requests)} conversations")
    compared = runs.get(_DIRECT, runs[_BUILT_IN])
    for name, measured in runs.items():
        share = statistics.median(run.rate / other.rate for run, other in zip(measured, compared, strict=True))
        rate, first = statistics.median(run.rate for run in measured), statistics.median(run.first for run in measured)
        processor = statistics.median(run.processor for run in measured)
        cost = statistics.median(other.processor for other in compared) / processor if processor else 0.0
        first_token = f"first token {first:5.2f} s" if first else ""
        print(f"  {name:<24}{rate:8.1f} tokens/s   {first_token:<20}   {share:.2f}   {f'by processor time {cost:.2f}' if cost else ''}")


def _processor_time(*, children: bool) -> float:
    """Returns the seconds of processor time of this process so far, and of its children."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *(own.children(recursive=True) if children else ()))]
    return float(sum(each.user + each.system for each in times))


if __name__ == "__main__":
    main()
