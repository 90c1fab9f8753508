"""What it gains to write several conversations together, and to read a system prompt once: `make bench-chat`.

Each measure is taken in turn with what it is compared with, in one process, so that the ratios hold on a busy machine as well. They are
given by the clock and by the CPU's seconds; the latter do not count what others do meanwhile.
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
class Measured:
    """Tokens written, and the seconds that it took."""

    tokens: int
    clock: float
    cpu: float
    first: float = 0.0

    @property
    def rates(self) -> tuple[float, float]:
        """Tokens per second of the clock and of the CPU."""
        return self.tokens / self.clock, self.tokens / self.cpu


def main() -> None:
    """Prints a table. The first argument is the folder with the models, the second how often each is measured (3)."""
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    prepare_environment()
    configure_logging("ERROR")
    model = load_chat(Path(sys.argv[1]) / "qwen_instruct", torch.device("cpu"), torch.float32)
    engine = TransformersEngine([ModelSpec("qwen_instruct", lambda: model)])
    samplings: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0}, "temperature 0.7, top_p 0.9": {"seed": 7}}
    for name, sampled in samplings.items():
        for form, lengths in (("8 equal", EQUAL), ("8 mixed", MIXED)):
            requests = [_request(animal, length, **sampled) for animal, length in zip(ANIMALS, lengths, strict=True)]
            runs = [_measure(model, engine, requests) for _ in range(rounds)]
            _print(f"{form}, {name}", runs)
    _prefix(model, rounds)


def _measure(model: ChatModel, engine: TransformersEngine, requests: Sequence[ChatRequest]) -> tuple[Measured, Measured, Measured]:
    plain = _timed(lambda: [_plain(model, request) for request in requests])
    return plain, _timed(lambda: _one_by_one(engine, requests)), _together(engine, requests)


def _request(animal: str, tokens: int, system: str | None = None, **more: Any) -> ChatRequest:
    messages = [{"role": "user", "content": f"Tell me a very long story about a {animal}."}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return ChatRequest.parse({"messages": messages, "max_tokens": tokens, **more}, job_id="bench")


def _answer(engine: TransformersEngine, request: ChatRequest) -> Completion:
    with engine.start(request, CancelToken(3600)) as stream:
        for _ in stream:
            pass
        return stream.finished


def _one_by_one(engine: TransformersEngine, requests: Sequence[ChatRequest]) -> list[int]:
    return [_answer(engine, request).completion_tokens for request in requests]


def _timed(work: Callable[[], list[int]]) -> Measured:
    clock, cpu = time.perf_counter(), time.process_time()
    tokens = sum(work())
    return Measured(tokens, time.perf_counter() - clock, time.process_time() - cpu)


def ask_all(engine: TransformersEngine, requests: Sequence[ChatRequest]) -> list[Completion]:
    """The answers to requests that are sent at once."""
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(lambda request: _answer(engine, request), requests))


def _together(engine: TransformersEngine, requests: Sequence[ChatRequest]) -> Measured:
    firsts: list[float] = []

    def work() -> list[int]:
        done = ask_all(engine, requests)
        firsts.extend(answer.time_to_first_token for answer in done)
        return [answer.completion_tokens for answer in done]

    timed = _timed(work)
    return Measured(timed.tokens, timed.clock, timed.cpu, max(firsts))


@torch.inference_mode()
def _plain(model: ChatModel, request: ChatRequest) -> int:
    """The library's own way, one request at a time."""
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    tokenizer: Any = model.tokenizer
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, return_tensors="pt")
    greedy = {"do_sample": False, "temperature": None, "top_p": None}
    sampling = greedy if request.temperature == 0 else {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p}
    generate: Any = model.model.generate
    out = generate(ids, max_new_tokens=request.max_tokens, top_k=None, repetition_penalty=1.0, **sampling)
    return int(out.shape[1] - ids.shape[1])


def _print(name: str, runs: Sequence[tuple[Measured, Measured, Measured]]) -> None:
    print(f"{name}")
    for label, index in (("generate, one by one", 0), ("engine, one by one", 1), ("engine, together", 2)):
        clock, cpu = (statistics.median(run[index].rates[which] for run in runs) for which in (0, 1))
        ratios = [statistics.median(run[index].rates[which] / run[1].rates[which] for run in runs) for which in (0, 1)]
        print(f"  {label:<22}{clock:7.1f} tokens/s {cpu:7.1f} tokens/CPU-s   {ratios[0]:.2f}× by the clock, {ratios[1]:.2f}× by the CPU")
    first = statistics.median(run[2].first for run in runs)
    print(f"  the last first token of the eight after {first:.2f} s")


def _prefix(model: ChatModel, rounds: int) -> None:
    """The time to the first token behind a long system prompt, the first time and after that."""
    engine = TransformersEngine([ModelSpec("qwen_instruct", lambda: model)])
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        system = f"You are storyteller number {number}. " + "Be kind, be brief, be exact, and never speak of the weather. " * 60
        first, again = (_answer(engine, _request(animal, 8, system, temperature=0)) for animal in ANIMALS[:2])
        assert (first.cached_tokens, again.cached_tokens > 0) == (0, True)
        times.append((first.time_to_first_token, again.time_to_first_token))
        tokens = again.prompt_tokens
    before, after = (statistics.median(pair[index] for pair in times) for index in (0, 1))
    print(f"a prompt of {tokens} tokens whose system part is known: first token after {after:.2f} s instead of {before:.2f} s")


if __name__ == "__main__":
    main()
