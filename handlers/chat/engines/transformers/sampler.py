"""Logits of several conversations become the next token of each. One conversation's choice never depends on another's."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from handlers.chat.engines.transformers.grammar import Grammar
from handlers.chat.request import ChatRequest

# So many of the likeliest tokens are sorted. Where top_p reaches further, all of them are.
_SORTED = 256
# Below this, two numbers of single precision that differ are so far apart that the smaller has no chance left.
_COLDEST = 1e-30


class Chooser:
    """How one request's tokens are chosen. Everything is set by the request; the model's own defaults have no say.

    Args:
        request: Temperature, top-p, penalties and seed.
        prompt: The prompt's ids; the repetition penalty counts them too.
        grammar: What may be written, where that is limited.
    """

    def __init__(self, request: ChatRequest, prompt: Sequence[int], grammar: Grammar | None) -> None:
        self.temperature = request.temperature
        self.top_p = request.top_p
        self.grammar = grammar
        self._repetition = request.repetition_penalty
        self._presence, self._frequency = request.presence_penalty, request.frequency_penalty
        self._counts = dict.fromkeys(prompt, 0) if self._repetition != 1.0 else {}
        # Numbers that are the same on every machine and next to whatever else is written.
        self._noise = random.Random(request.seed)

    def noise(self) -> float:
        """The next number of this request's seed, 0.0 … 1.0, without 1.0."""
        return self._noise.random()

    def adjust(self, logits: Tensor) -> None:
        """Applies penalties and grammar in place, to one row of logits.

        Repetition penalty as in CTRL (arXiv 1909.05858, 4.1); presence and frequency penalty as OpenAI's API defines them.
        """
        if self._repetition != 1.0:
            ids = torch.tensor(list(self._counts), device=logits.device)
            seen = logits[ids]
            logits[ids] = torch.where(seen > 0, seen / self._repetition, seen * self._repetition)
        if self._presence or self._frequency:
            written = {token: count for token, count in self._counts.items() if count}
            ids = torch.tensor(list(written), dtype=torch.long, device=logits.device)
            taken = [self._presence + self._frequency * count for count in written.values()]
            logits[ids] -= torch.tensor(taken, device=logits.device)
        if self.grammar is not None:
            logits.masked_fill_(~self.grammar.allowed(len(logits)).to(logits.device), -torch.inf)

    def note(self, token: int) -> None:
        """Remembers what was chosen."""
        if self._repetition != 1.0 or self._presence or self._frequency:
            self._counts[token] = self._counts.get(token, 0) + 1
        if self.grammar is not None:
            self.grammar.take(token)


def choose(logits: Tensor, choosers: Sequence[Chooser]) -> list[int | None]:
    """Chooses the next token of each row.

    Args:
        logits: Rows × vocabulary, one row for each of `choosers`; may be changed.
        choosers: How.

    Returns:
        For each row a token's id, or None where the model's output is not finite.
    """
    logits = logits.float()
    finite = logits.sum(-1).isfinite()
    for row, chooser in zip(logits, choosers, strict=True):
        chooser.adjust(row)
    tokens = logits.argmax(-1)
    warm = [index for index, chooser in enumerate(choosers) if chooser.temperature > 0]
    if warm:
        tokens[warm] = _draw(logits[warm], [choosers[index] for index in warm])
    chosen = [token if good else None for token, good in zip(tokens.tolist(), finite.tolist(), strict=True)]
    for token, chooser in zip(chosen, choosers, strict=True):
        if token is not None:
            chooser.note(token)
    return chosen


def _draw(logits: Tensor, choosers: Sequence[Chooser]) -> Tensor:
    """Draws a token for each row: temperature, then nucleus sampling (arXiv 1904.09751), then the inverse of the distribution function."""
    temperature = torch.tensor([[max(chooser.temperature, _COLDEST)] for chooser in choosers], device=logits.device)
    # Less the largest, so that a temperature near 0 leads to the likeliest token and not out of the range of numbers.
    probabilities = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    noise = torch.tensor([[chooser.noise()] for chooser in choosers], dtype=torch.float64, device=logits.device)
    top_p = torch.tensor([[chooser.top_p] for chooser in choosers], dtype=torch.float64, device=logits.device)
    tokens = torch.empty(len(choosers), dtype=torch.long, device=logits.device)
    whole = [index for index, chooser in enumerate(choosers) if chooser.top_p >= 1.0]
    nucleus = [index for index, chooser in enumerate(choosers) if chooser.top_p < 1.0]
    if whole:
        tokens[whole] = _inverse(probabilities[whole].double(), noise[whole])
    if nucleus:
        tokens[nucleus] = _from_nucleus(probabilities[nucleus], top_p[nucleus], noise[nucleus])
    return tokens


def _from_nucleus(probabilities: Tensor, top_p: Tensor, noise: Tensor) -> Tensor:
    """Draws from the fewest tokens that reach `top_p` together; the likeliest is always one of them."""
    tokens, reached = _from_likeliest(probabilities, top_p, noise, _SORTED)
    further = [index for index, enough in enumerate(reached.tolist()) if not enough]
    if further:
        tokens[further], _ = _from_likeliest(probabilities[further], top_p[further], noise[further], probabilities.shape[1])
    return tokens


def _from_likeliest(probabilities: Tensor, top_p: Tensor, noise: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same from at most `count` of the likeliest, and whether these reach `top_p`."""
    likeliest, ids = probabilities.topk(min(count, probabilities.shape[1]))
    likeliest = likeliest.double()
    before = likeliest.cumsum(-1) - likeliest
    outside = before >= top_p
    outside[:, 0] = False
    reached = before[:, -1:] + likeliest[:, -1:] >= top_p
    places = _inverse(likeliest.masked_fill(outside, 0.0), noise)
    return ids.gather(1, places[:, None])[:, 0], reached[:, 0]


def _inverse(weights: Tensor, noise: Tensor) -> Tensor:
    """The place, in each row, where the sum of the weights so far passes `noise` of the whole. A weight of 0 is never chosen."""
    sums = weights.cumsum(-1)
    places = torch.searchsorted(sums, noise * sums[:, -1:], right=True)[:, 0]
    # Rounding may put the last one out of reach of `right`.
    last = weights.shape[1] - 1 - weights.flip(-1).ne(0).int().argmax(-1)
    return torch.minimum(places, last)
