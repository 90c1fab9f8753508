"""Logits become the next token."""

from __future__ import annotations

import torch
from torch import Tensor

from shared.contract.chat import ChatRequest
from shared.errors import GenerationError


class Sampler:
    """Chooses a request's tokens, one after the other. Everything is set by the request; the model's own defaults have no say.

    Args:
        request: Temperature, top-p, penalties and seed.
        prompt: The prompt's ids; the repetition penalty counts them too.
        vocabulary: Ids from here on are padding of the embedding and never chosen.
    """

    def __init__(self, request: ChatRequest, prompt: list[int], vocabulary: int) -> None:
        self._request = request
        self._vocabulary = vocabulary
        self._prompt = frozenset(prompt)
        self._written: list[int] = []
        # On the CPU, so that the seed means the same on any GPU.
        self._noise = torch.Generator("cpu").manual_seed(request.seed)

    def choose(self, logits: Tensor) -> int:
        """Returns the next token's id.

        Args:
            logits: One value per id of the vocabulary.

        Raises:
            GenerationError: They are not finite.
        """
        logits = logits[: self._vocabulary].double().cpu()
        if not bool(logits.isfinite().all()):
            raise GenerationError("The model's output is not finite. Send the job again.")
        token = self._draw(self._penalize(logits))
        self._written.append(token)
        return token

    def _penalize(self, logits: Tensor) -> Tensor:
        """Repetition penalty as in CTRL (arXiv 1909.05858, 4.1); presence and frequency penalty as OpenAI's API defines them."""
        written = torch.tensor(self._written, dtype=torch.long)
        if (repetition := self._request.repetition_penalty) != 1.0:
            seen = torch.tensor(sorted({*self._prompt, *self._written}))
            logits[seen] = torch.where(logits[seen] > 0, logits[seen] / repetition, logits[seen] * repetition)
        counts = torch.bincount(written, minlength=logits.shape[0])
        return logits - self._request.frequency_penalty * counts - self._request.presence_penalty * (counts > 0)

    def _draw(self, logits: Tensor) -> int:
        if self._request.temperature == 0:
            return int(logits.argmax())
        # Less the largest, so that a temperature near 0 leads to the likeliest token and not out of the range of numbers.
        scaled = (logits - logits.max()) / self._request.temperature
        probabilities, ids = scaled.softmax(0).sort(descending=True, stable=True)
        # Nucleus sampling (arXiv 1904.09751): the fewest tokens that reach top_p together; the likeliest is always one of them.
        outside = probabilities.cumsum(0) - probabilities >= self._request.top_p
        outside[0] = False
        kept = probabilities.masked_fill(outside, 0.0)
        return int(ids[torch.multinomial(kept, 1, generator=self._noise)])
