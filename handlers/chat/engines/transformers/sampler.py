"""Samples the next token of every sequence in a batch: penalties, grammar, temperature and top-p.

Each sequence has a random number generator of its own, so its tokens do not depend on the other sequences of the batch.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from functools import partial

import torch
from torch import Tensor

from handlers.chat.engines.transformers.containment import Containment
from handlers.chat.engines.transformers.grammar import Grammar
from handlers.chat.engines.transformers.logprobs import SampledLogprob
from handlers.chat.request import ChatRequest
from shared.errors import GenerationError, JobError, OutOfMemory
from shared.models.oom import run_once

# The number of most likely tokens that are sorted for top-p. If they do not reach it, the whole vocabulary is sorted.
_TOP_K = 256
# A lower temperature than this changes nothing: in single precision any two distinct logits are already infinitely far apart.
_MIN_TEMPERATURE = 1e-30


class Sampler:
    """The sampling state of one sequence. All parameters come from the request; the model's generation config is not used.

    Args:
        request: Temperature, top-p, penalties and seed.
        prompt: The prompt's token ids, to which the repetition penalty applies, too.
        grammar: Constrains the tokens; None for free text.
        eos_token_ids: Tokens that are not sampled before `min_tokens`.

    Attributes:
        top_logprobs: How many alternatives are reported with a token's log probability; None: it is not reported.
        sampled_logprob: The log probability of the token that was sampled last, if it is reported.
    """

    def __init__(self, request: ChatRequest, prompt: Sequence[int], grammar: Grammar | None, eos_token_ids: Collection[int] = ()) -> None:
        self.temperature = request.temperature
        self.top_p = request.top_p
        self.grammar = grammar
        self.top_logprobs = request.top_logprobs if request.logprobs else None
        self.sampled_logprob: SampledLogprob | None = None
        self.top_k, self.min_p = max(0, request.top_k), request.min_p
        self._bias = {int(token): bias for token, bias in request.logit_bias.items()}
        self._banned, self._banned_steps = sorted(eos_token_ids), request.min_tokens
        self._repetition_penalty = request.repetition_penalty
        self._presence_penalty, self._frequency_penalty = request.presence_penalty, request.frequency_penalty
        self._counts = dict.fromkeys(prompt, 0) if self._repetition_penalty != 1.0 else {}
        # A CPU generator per request: reproducible across machines and batch compositions.
        self._generator = random.Random(request.seed)

    def uniform(self) -> float:
        """Draws the next random number of this request, in [0, 1)."""
        return self._generator.random()

    def process_logits(self, logits: Tensor) -> None:
        """Applies biases, penalties and the grammar in place to one row of logits.

        Repetition penalty: CTRL (arXiv 1909.05858, section 4.1). Presence and frequency penalty: OpenAI's API reference.
        """
        if self._bias:
            logits[list(self._bias)] += torch.tensor(list(self._bias.values()), device=logits.device)
        if self._repetition_penalty != 1.0:
            ids = torch.tensor(list(self._counts), device=logits.device)
            seen = logits[ids]
            logits[ids] = torch.where(seen > 0, seen / self._repetition_penalty, seen * self._repetition_penalty)
        if self._presence_penalty or self._frequency_penalty:
            generated = {token: count for token, count in self._counts.items() if count}
            ids = torch.tensor(list(generated), dtype=torch.long, device=logits.device)
            penalties = [self._presence_penalty + self._frequency_penalty * count for count in generated.values()]
            logits[ids] -= torch.tensor(penalties, device=logits.device)
        allowed = self.grammar.allowed_tokens(len(logits)) if self.grammar is not None else None
        if self._banned_steps > 0:
            allowed = self._without_banned(allowed, len(logits))
        if allowed is not None:
            logits.masked_fill_(~allowed.to(logits.device), -torch.inf)

    def _without_banned(self, allowed: Tensor | None, vocabulary_size: int) -> Tensor:
        """Excludes the end of the completion, unless a grammar allows nothing else."""
        remaining = torch.ones(vocabulary_size, dtype=torch.bool) if allowed is None else allowed.clone()
        remaining[[token for token in self._banned if token < vocabulary_size]] = False
        return remaining if allowed is None or bool(remaining.any()) else allowed

    def accept(self, token: int) -> None:
        """Updates token counts and grammar with a sampled token."""
        self._banned_steps -= 1
        if self._repetition_penalty != 1.0 or self._presence_penalty or self._frequency_penalty:
            self._counts[token] = self._counts.get(token, 0) + 1
        if self.grammar is not None:
            self.grammar.accept(token)


def sample(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | JobError]:
    """Samples the next token of each row.

    Args:
        logits: Rows × vocabulary, one row per sampler. May be modified.
        samplers: The samplers of the rows.

    Returns:
        One token id per row, or the error of a row whose logits are not finite, or that has failed in another way.
    """
    logits = logits.float()
    finite = logits.sum(-1).isfinite().tolist()
    rows = [Containment() for _ in samplers]
    own = {index: logits[index].log_softmax(-1) for index, sampler in enumerate(samplers) if sampler.top_logprobs is not None}
    for row, sampler, values, is_finite in zip(rows, samplers, logits, finite, strict=True):
        with row:
            if not is_finite:
                raise GenerationError("The model's output is not finite. Send the job again.")
            sampler.process_logits(values)
    uniform = [sampler.uniform() if sampler.temperature > 0 else 0.0 for sampler in samplers]
    tokens = _choose_twice(logits, samplers, uniform)
    if tokens is None:
        return [row.error or OutOfMemory("There was not enough memory to choose the next token. Send the job again.") for row in rows]
    for index, (row, sampler, token) in enumerate(zip(rows, samplers, tokens, strict=True)):
        with row:
            if row.error is None:
                sampler.accept(token)
                if index in own:
                    sampler.sampled_logprob = SampledLogprob.of(own[index], token, sampler.top_logprobs or 0)
    return [token if row.error is None else row.error for row, token in zip(rows, tokens, strict=True)]


def _choose_twice(logits: Tensor, samplers: Sequence[Sampler], uniform: Sequence[float]) -> list[int] | None:
    """Chooses tokens; tries again after a first shortage of memory, and returns None after a second one."""
    work = partial(_choose, logits, samplers, uniform)
    enough, tokens = run_once(work)
    return tokens if enough else run_once(work)[1]


def _choose(logits: Tensor, samplers: Sequence[Sampler], uniform: Sequence[float]) -> list[int]:
    tokens = logits.argmax(-1)
    stochastic = [index for index, sampler in enumerate(samplers) if sampler.temperature > 0]
    if stochastic:
        tokens[stochastic] = _draw(logits[stochastic], [samplers[index] for index in stochastic], [uniform[index] for index in stochastic])
    ids: list[int] = tokens.tolist()
    return ids


def _draw(logits: Tensor, samplers: Sequence[Sampler], numbers: Sequence[float]) -> Tensor:
    """Draws one token per row: temperature, nucleus sampling (arXiv 1904.09751), inverse transform sampling."""
    temperature = torch.tensor([[max(sampler.temperature, _MIN_TEMPERATURE)] for sampler in samplers], device=logits.device)
    # Relative to the maximum, so that a temperature near 0 converges to greedy decoding instead of overflowing.
    probabilities = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    for row, sampler in zip(probabilities, samplers, strict=True):
        _filter(row, sampler)
    uniform = torch.tensor([[number] for number in numbers], dtype=torch.float64, device=logits.device)
    top_p = torch.tensor([[sampler.top_p] for sampler in samplers], dtype=torch.float64, device=logits.device)
    tokens = torch.empty(len(samplers), dtype=torch.long, device=logits.device)
    full = [index for index, sampler in enumerate(samplers) if sampler.top_p >= 1.0]
    nucleus = [index for index, sampler in enumerate(samplers) if sampler.top_p < 1.0]
    if full:
        tokens[full] = _inverse_transform(probabilities[full].double(), uniform[full])
    if nucleus:
        tokens[nucleus] = _draw_from_nucleus(probabilities[nucleus], top_p[nucleus], uniform[nucleus])
    return tokens


def _filter(probabilities: Tensor, sampler: Sampler) -> None:
    """Applies min-p (arXiv 2407.01082) and top-k in place to one row."""
    if sampler.min_p > 0:
        probabilities[probabilities < sampler.min_p * probabilities.max()] = 0
    if 0 < sampler.top_k < len(probabilities):
        likeliest, ids = probabilities.topk(sampler.top_k)
        probabilities.zero_()[ids] = likeliest
    if sampler.min_p > 0 or sampler.top_k > 0:
        probabilities /= probabilities.sum()


def _draw_from_nucleus(probabilities: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Draws from the smallest set of tokens whose probabilities sum to `top_p`; the most likely token is always in it."""
    tokens, reached = _draw_from_top_k(probabilities, top_p, uniform, _TOP_K)
    unfinished = [index for index, enough in enumerate(reached.tolist()) if not enough]
    if unfinished:
        vocabulary = probabilities.shape[1]
        tokens[unfinished], _ = _draw_from_top_k(probabilities[unfinished], top_p[unfinished], uniform[unfinished], vocabulary)
    return tokens


def _draw_from_top_k(probabilities: Tensor, top_p: Tensor, uniform: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Draws from the nucleus within the `k` most likely tokens; also returns whether these reach `top_p`."""
    likeliest, ids = probabilities.topk(min(k, probabilities.shape[1]))
    likeliest = likeliest.double()
    before = likeliest.cumsum(-1) - likeliest
    outside = before >= top_p
    outside[:, 0] = False
    reached = before[:, -1:] + likeliest[:, -1:] >= top_p
    ranks = _inverse_transform(likeliest.masked_fill(outside, 0.0), uniform)
    return ids.gather(1, ranks[:, None])[:, 0], reached[:, 0]


def _inverse_transform(weights: Tensor, uniform: Tensor) -> Tensor:
    """Returns, per row, the index at which the cumulative weight exceeds `uniform` times the total. Never an index of weight 0."""
    cumulative = weights.cumsum(-1)
    indices = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    # Rounding may move the threshold to the total, beyond the last index of non-zero weight.
    last = weights.shape[1] - 1 - weights.flip(-1).ne(0).int().argmax(-1)
    return torch.minimum(indices, last)
