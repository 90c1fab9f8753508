"""What a step of the batch asks of a GPU, counted on a fake CUDA device: the host waits once for each forward pass, for its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from benchmarks.fake_cuda import FakeCuda, can_build_device_guard
from handlers.chat.engines.transformers.batch import Batch
from handlers.chat.engines.transformers.chat_format import ChatFormat
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.prefix_cache import PrefixCache
from handlers.chat.engines.transformers.sequence import SequenceState
from handlers.chat.prompt_renderer import Prompt
from handlers.chat.request import ChatRequest
from shared.jobs.execution.cancel import CancelToken
from tests.handlers.chat.engine_fixtures import ask, with_transformers_layers

pytestmark = pytest.mark.skipif(not can_build_device_guard(), reason="needs a C++ compiler")

SAMPLED: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": SAMPLED,
    "without a nucleus": {"temperature": 1.0, "top_p": 1.0},
    "top-k and min-p": SAMPLED | {"top_k": 20, "min_p": 0.05},
    "penalties": SAMPLED | {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    "biases": SAMPLED | {"logit_bias": {"5": 1.0, "9": -1.0}, "min_tokens": 2},
    "log probabilities": SAMPLED | {"logprobs": True, "top_logprobs": 3},
    "grammar": SAMPLED | {"guided_regex": r"[\s\S]*"},
}


@dataclass
class Device:
    """A small model on the fake device.

    Attributes:
        card: The device.
        model: The model.
        passes: Its forward passes since the last step began.
    """

    card: FakeCuda
    model: ChatModel
    passes: int = 0

    def batch(self, *requests: ChatRequest) -> Batch:
        batch = Batch(self.model, PrefixCache(0))
        batch.add(self.sequence(request) for request in requests)
        return batch

    def sequence(self, request: ChatRequest) -> SequenceState:
        """A sequence that no token ends: the fake device answers every question with the same one."""
        prompt = Prompt([5, 6, 7] * len(request.messages[0].content), 0)
        params = ChatFormat(self.model, transcript=False).decoding_params(request, prompt, request.max_tokens)
        return SequenceState("qwen_instruct", prompt, replace(params, eos_token_ids=()), CancelToken(60))

    def waits_of_a_step(self, batch: Batch) -> tuple[int, int]:
        """Returns how often the host waits in a step, and the forward passes of the step."""
        self.passes = 0
        self.card.reset("step")
        batch.step()
        return self.card.counts.waits_in("step"), self.passes


@pytest.fixture(scope="module")
def device(instruct: ChatModel) -> Iterator[Device]:
    network = deepcopy(with_transformers_layers(instruct).model)
    with FakeCuda() as card, torch.inference_mode():
        device = Device(card, ChatModel(network.to("cuda:0"), instruct.tokenizer))  # type: ignore[arg-type]  # transformers is typed in part

        def count(*_: object) -> None:
            device.passes += 1

        network.register_forward_pre_hook(count)
        yield device


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_waits_once_for_each_pass(device: Device, kind: str) -> None:
    batch = device.batch(*(ask(max_tokens=40, seed=seed, **KINDS[kind]) for seed in range(3)))
    counted = [device.waits_of_a_step(batch) for _ in range(3)]
    assert counted == [(2, 2), (1, 1), (1, 1)], "prefill and decode, then decode: " + device.card.counts.describe_waits()
    assert len(batch.sequences) == 3


def test_the_host_waits_once_for_each_pass_whatever_is_mixed_joins_and_leaves(device: Device) -> None:
    batch = device.batch(*(ask("x" * (1 + index), max_tokens=2 + index, **KINDS[kind]) for index, kind in enumerate(KINDS)))
    left = 0
    for step in range(8):
        if step == 4:
            batch.add([device.sequence(ask("hello", max_tokens=30, **SAMPLED)), device.sequence(ask("hello" * 20))])
        before = len(batch.sequences)
        waits, passes = device.waits_of_a_step(batch)
        assert waits == passes > 0, device.card.counts.describe_waits()
        left += before > len(batch.sequences)
    assert left > 3
