"""Sampling for all rows at once gives each row, bit for bit, the token that the definitions give it alone."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from handlers.chat.engines.transformers.device_inputs import DeviceInputs
from handlers.chat.engines.transformers.sampling.sampler import Sampler
from handlers.chat.engines.transformers.sampling.step import SamplingStep
from handlers.chat.request import ChatRequest
from shared.errors import GenerationError, JobError
from tests.handlers.chat.engine_fixtures import ask

VOCABULARY, EOS, STEPS = 3000, 7, 6
PROMPT = [5, 9, 5, 2999, 11]
KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1e-40, "top_p": 0.9},
    {"temperature": 2.0, "top_p": 1.0},
    {"temperature": 2.0, "top_p": 0.999},  # a nucleus of more than 256 tokens
    {"temperature": 1.0, "top_p": 0.0},
    {"temperature": 1.5, "top_p": 1.0, "top_k": 5},
    {"temperature": 1.5, "top_p": 0.8, "min_p": 0.1},
    {"temperature": 1.5, "top_p": 0.8, "min_p": 0.05, "top_k": 40},
    {"temperature": 0.9, "repetition_penalty": 1.3},
    {"temperature": 0.9, "repetition_penalty": 0.7, "presence_penalty": 0.6, "frequency_penalty": 0.3},
    {"temperature": 0, "frequency_penalty": -1.7},
    {"temperature": 1.2, "logit_bias": {"5": 3.3, "17": -100, "2999": 1.7}, "repetition_penalty": 1.1},
    {"temperature": 1.2, "logit_bias": {str(EOS): 100}, "min_tokens": 3},
    {"temperature": 1.0, "logprobs": True, "top_logprobs": 4},
    {"temperature": 0, "logprobs": True},
]


class Definition:
    """One sequence's sampling, written down as the parameters are defined."""

    def __init__(self, request: ChatRequest) -> None:
        self.request = request
        self.generated: list[int] = []
        self.random = random.Random(request.seed)

    def penalized(self, logits: Tensor) -> Tensor:
        request, counts = self.request, Counter(self.generated)
        for name, bias in request.logit_bias.items():
            logits[int(name)] += bias
        for token in {*PROMPT, *counts} if request.repetition_penalty != 1.0 else ():
            logits[token] = logits[token] / request.repetition_penalty if logits[token] > 0 else logits[token] * request.repetition_penalty
        for token, count in counts.items():
            logits[token] -= request.presence_penalty + request.frequency_penalty * count
        if len(self.generated) < request.min_tokens:
            logits[EOS] = -torch.inf
        return logits

    def sample(self, logits: Tensor) -> int:
        logits = self.penalized(logits.clone())
        token = self.drawn(logits) if self.request.temperature > 0 else int(logits.argmax())
        self.generated.append(token)
        return token

    def drawn(self, logits: Tensor) -> int:
        request = self.request
        probabilities = ((logits - logits.max()) / max(request.temperature, 1e-30)).softmax(-1)
        if request.min_p > 0:
            probabilities[probabilities < request.min_p * probabilities.max()] = 0
        if request.top_k > 0:
            probabilities[probabilities < probabilities.sort(descending=True).values[request.top_k - 1]] = 0
        if request.min_p > 0 or request.top_k > 0:
            probabilities /= probabilities.sum()
        if request.top_p >= 1:
            weights, ids = probabilities.double(), torch.arange(len(logits))
        else:
            ordered, ids = probabilities.sort(descending=True)
            weights = ordered.double()
            outside = weights.cumsum(-1) - weights >= request.top_p
            weights[outside & (torch.arange(len(logits)) > 0)] = 0
        cumulative = weights.cumsum(-1)
        index = int(torch.searchsorted(cumulative, self.random.random() * cumulative[-1], right=True))
        return int(ids[min(index, int(weights.nonzero()[-1]))])


def request(kind: int, seed: int) -> ChatRequest:
    return ask(max_tokens=60, seed=seed, **KINDS[kind])


def sampler_of(request: ChatRequest) -> Sampler:
    return Sampler(request, PROMPT, None, [EOS])


def sample(samplers: list[Sampler], logits: Tensor) -> list[int | JobError]:
    return SamplingStep(samplers, VOCABULARY, DeviceInputs(logits.device)).sample(logits.clone())


def logits_of(rows: int, step: int) -> Tensor:
    """Logits of a model with padding in its embedding, rows × more than the vocabulary."""
    return 3 * torch.randn(rows, VOCABULARY + 40, generator=torch.Generator().manual_seed(100 * step + 1))


@pytest.mark.parametrize("order", [1, -1])
def test_each_row_of_a_batch_gets_the_token_of_its_definition(order: int) -> None:
    requests = [request(kind, seed=kind) for kind in range(len(KINDS))][::order]
    samplers, definitions = [sampler_of(each) for each in requests], [Definition(each) for each in requests]
    for step in range(STEPS):
        logits = logits_of(len(requests), step)
        expected = [each.sample(row[:VOCABULARY]) for each, row in zip(definitions, logits, strict=True)]
        assert sample(samplers, logits) == expected


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_row_alone_gets_the_token_of_its_definition(kind: int) -> None:
    sampler, definition = sampler_of(request(kind, seed=3)), Definition(request(kind, seed=3))
    for step in range(STEPS):
        logits = logits_of(1, step)
        assert sample([sampler], logits) == [definition.sample(logits[0, :VOCABULARY])]


def test_log_probabilities_are_those_of_the_models_own_logits() -> None:
    fields: list[dict[str, Any]] = [{"top_logprobs": 4}, {}, {"top_logprobs": 0}, {"top_logprobs": 2, "logit_bias": {"5": 100}}]
    samplers = [sampler_of(ask(logprobs=bool(index != 1), **each)) for index, each in enumerate(fields)]
    logits = logits_of(4, 0)
    tokens = sample(samplers, logits)
    assert tokens[3] == 5
    for sampler, token, row in zip(samplers, tokens, logits[:, :VOCABULARY].log_softmax(-1), strict=True):
        sampled = sampler.sampled_logprob
        if sampler.top_logprobs is None:
            assert sampled is None
            continue
        assert sampled is not None
        values, ids = row.topk(sampler.top_logprobs)
        assert (sampled.token, sampled.logprob) == (token, float(row[int(str(token))]))
        assert sampled.top == tuple(zip(ids.tolist(), values.tolist(), strict=True))


def test_a_vocabulary_of_fewer_tokens_than_alternatives_are_asked_for_is_reported_whole() -> None:
    sampler = Sampler(ask(logprobs=True, top_logprobs=20), [1, 2], None, [0])
    SamplingStep([sampler], 6, DeviceInputs(torch.device("cpu"))).sample(torch.arange(6.0)[None])
    assert sampler.sampled_logprob is not None
    assert [token for token, _ in sampler.sampled_logprob.top] == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_whose_logits_are_not_finite_fails_alone(value: float) -> None:
    samplers = [sampler_of(request(kind, seed=kind)) for kind in range(len(KINDS))]
    logits = logits_of(len(KINDS), 0)
    expected = sample([sampler_of(request(kind, seed=kind)) for kind in range(len(KINDS))], logits)
    for poisoned in (0, 4, 14):
        logits[poisoned, 50] = value
        expected[poisoned] = GenerationError("")
    for token, wanted in zip(sample(samplers, logits), expected, strict=True):
        assert isinstance(token, GenerationError) if isinstance(wanted, GenerationError) else token == wanted


def test_a_step_that_is_repeated_draws_the_same_numbers() -> None:
    once, twice = (sampler_of(request(3, seed=1)) for _ in range(2))
    SamplingStep([twice], VOCABULARY, DeviceInputs(torch.device("cpu")))  # whose forward pass ran out of memory
    assert sample([once], logits_of(1, 0)) == sample([twice], logits_of(1, 0))


def test_tokens_beyond_the_vocabulary_are_left_alone() -> None:
    far = {str(VOCABULARY + 5): 3.0}
    samplers = [Sampler(ask(logit_bias=far, repetition_penalty=1.2), [*PROMPT, VOCABULARY + 1], None, [VOCABULARY + 9])]
    assert sample(samplers, logits_of(1, 0)) == sample([sampler_of(ask(repetition_penalty=1.2))], logits_of(1, 0))
