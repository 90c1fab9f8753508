"""Throughput of continuous batching and latency of prefix-cache hits on a CPU: `make bench-chat`.

Baseline and engine alternate in one process, so that ratios hold on a busy machine. Rates are reported per second of wall-clock time and
per second of CPU time; the latter excludes other processes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handlers.chat.engine import Completion
from handlers.chat.engines.transformers.chat_format import ModelSpec
from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel, load_chat
from handlers.chat.request import ChatRequest
from shared.jobs.execution.cancel import CancelToken
from shared.settings import prepare_environment
from shared.telemetry import configure_logging

ANIMALS = ("heron", "tiger", "whale", "raven", "horse", "otter", "moose", "snail")
EQUAL = (64,) * 8
MIXED = (16, 36, 57, 78, 98, 119, 140, 160)


@dataclass(frozen=True)
class Measurement:
    """One run.

    Attributes:
        tokens: Tokens generated.
        wall: Seconds of wall-clock time.
        cpu: Seconds of CPU time.
        first: Seconds until every request had its first token.
    """

    tokens: int
    wall: float
    cpu: float
    first: float = 0.0

    @property
    def rates(self) -> tuple[float, float]:
        """Tokens per second of wall-clock time and of CPU time."""
        return self.tokens / self.wall, self.tokens / self.cpu


def main() -> None:
    """Prints a table. Arguments: the folder with the models, and the number of rounds (3)."""
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    prepare_environment()
    configure_logging("ERROR")
    model, reference = (load_model(Path(sys.argv[1]), fused=fused) for fused in (True, False))
    engine = TransformersEngine([ModelSpec("qwen_instruct", lambda: model)])
    samplings: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0}, "temperature 0.7, top_p 0.9": {"seed": 7}}
    for name, sampling in samplings.items():
        for label, lengths in (("8 equal", EQUAL), ("8 mixed", MIXED)):
            requests = [_request(animal, length, **sampling) for animal, length in zip(ANIMALS, lengths, strict=True)]
            runs = [_measure(reference, engine, requests) for _ in range(rounds)]
            _print(f"{label}, {name}", runs)
    hit = measure_prefix_cache(model, rounds)
    print(f"time to first token of a prompt of {hit.tokens} tokens: {hit.hit:.2f} s with a cached system prompt, {hit.miss:.2f} s without")


def load_model(models: Path, *, fused: bool = True) -> ChatModel:
    """Loads the instruct model of a MODELS_DIR onto the CPU, as workers do or with the layers of transformers."""
    return load_chat(models / "qwen_instruct", torch.device("cpu"), torch.float32, fused=fused)


def measure_batching(model: ChatModel, rounds: int, tokens: int = 64) -> tuple[float, float]:
    """Measures eight equal conversations, decoded greedily.

    Args:
        model: The model.
        rounds: How often both ways are measured.
        tokens: The length of each completion.

    Returns:
        Tokens per second of CPU time: one conversation after the other, and all at once.
    """
    engine = TransformersEngine([ModelSpec("qwen_instruct", lambda: model)])
    requests = [_request(animal, tokens, temperature=0) for animal in ANIMALS]
    runs = [(_timed(lambda: _complete_sequentially(engine, requests)), _measure_concurrent(engine, requests)) for _ in range(rounds)]
    engine.close()
    return statistics.median(one.rates[1] for one, _ in runs), statistics.median(eight.rates[1] for _, eight in runs)


def _measure(
    reference: ChatModel, engine: TransformersEngine, requests: Sequence[ChatRequest]
) -> tuple[Measurement, Measurement, Measurement]:
    baseline = _timed(lambda: [generate_one(reference, request) for request in requests])
    return baseline, _timed(lambda: _complete_sequentially(engine, requests)), _measure_concurrent(engine, requests)


def _request(animal: str, tokens: int, system: str | None = None, **fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": f"Tell me a very long story about a {animal}."}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return ChatRequest.parse({"messages": messages, "max_tokens": tokens, **fields}, job_id="bench")


def _complete(engine: TransformersEngine, request: ChatRequest) -> Completion:
    with engine.submit(request, CancelToken(3600)) as stream:
        for _ in stream:
            pass
        return stream.completion


def _complete_sequentially(engine: TransformersEngine, requests: Sequence[ChatRequest]) -> list[int]:
    return [_complete(engine, request).completion_tokens for request in requests]


def _timed(work: Callable[[], list[int]]) -> Measurement:
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = sum(work())
    return Measurement(tokens, time.perf_counter() - wall, time.process_time() - cpu)


def complete_concurrently(engine: TransformersEngine, requests: Sequence[ChatRequest]) -> list[Completion]:
    """Completes requests that are submitted at the same time."""
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(lambda request: _complete(engine, request), requests))


def _measure_concurrent(engine: TransformersEngine, requests: Sequence[ChatRequest]) -> Measurement:
    firsts: list[float] = []

    def work() -> list[int]:
        completions = complete_concurrently(engine, requests)
        firsts.extend(completion.time_to_first_token for completion in completions)
        return [completion.completion_tokens for completion in completions]

    timed = _timed(work)
    return Measurement(timed.tokens, timed.wall, timed.cpu, max(firsts))


@torch.inference_mode()
def generate_one(model: ChatModel, request: ChatRequest) -> int:
    """Completes a request with transformers' `generate`, the baseline. Returns the number of tokens."""
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    tokenizer: Any = model.tokenizer
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, return_tensors="pt")
    greedy = {"do_sample": False, "temperature": None, "top_p": None}
    sampling = greedy if request.temperature == 0 else {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p}
    generate: Any = model.model.generate
    out = generate(ids, max_new_tokens=request.max_tokens, top_k=None, repetition_penalty=1.0, **sampling)
    return int(out.shape[1] - ids.shape[1])


def _print(name: str, runs: Sequence[tuple[Measurement, Measurement, Measurement]]) -> None:
    print(f"{name}")
    for label, index in (("generate, sequential", 0), ("engine, sequential", 1), ("engine, concurrent", 2)):
        wall, cpu = (statistics.median(run[index].rates[which] for run in runs) for which in (0, 1))
        ratios = [statistics.median(run[index].rates[which] / run[1].rates[which] for run in runs) for which in (0, 1)]
        print(
            f"  {label:<22}{wall:7.1f} tokens/s {cpu:7.1f} tokens/CPU-s   {ratios[0]:.2f}× in wall-clock time, {ratios[1]:.2f}× in CPU time"
        )
    first = statistics.median(run[2].first for run in runs)
    print(f"  every request has its first token after {first:.2f} s")


@dataclass(frozen=True)
class PrefixCacheTimes:
    """Medians of the time to the first token, in seconds.

    Attributes:
        tokens: The length of the prompt.
        miss: Its system prompt is not cached.
        hit: It is.
    """

    tokens: int
    miss: float
    hit: float


def measure_prefix_cache(model: ChatModel, rounds: int) -> PrefixCacheTimes:
    """Measures the time to first token after a long system prompt, on a miss and on a hit of the prefix cache."""
    engine = TransformersEngine([ModelSpec("qwen_instruct", lambda: model)])
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        system = f"You are storyteller number {number}. " + "Be kind, be brief, be exact, and never speak of the weather. " * 60
        miss, hit = (_complete(engine, _request(animal, 8, system, temperature=0)) for animal in ANIMALS[:2])
        assert (miss.cached_tokens, hit.cached_tokens > 0) == (0, True)
        times.append((miss.time_to_first_token, hit.time_to_first_token))
        tokens = hit.prompt_tokens
    engine.close()
    return PrefixCacheTimes(tokens, *(statistics.median(pair[index] for pair in times) for index in (0, 1)))


if __name__ == "__main__":
    main()
