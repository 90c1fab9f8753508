"""Samples the next token of every sequence in a batch.

What this takes reaches the device in the copy that brings the inputs of the forward pass, and all results come back in one: the host waits
once. Each sequence has a random number generator of its own, so its tokens do not depend on the other sequences of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from handlers.chat.engines.transformers.containment import Containment
from handlers.chat.engines.transformers.device_inputs import DeviceInputs
from handlers.chat.engines.transformers.logprobs import SampledLogprob
from handlers.chat.engines.transformers.sampling.draw import NOT_REACHED, TOP_K
from handlers.chat.engines.transformers.sampling.logit_changes import GrammarMasks, LogitChanges
from handlers.chat.engines.transformers.sampling.raw_logprobs import RawLogprobs
from handlers.chat.engines.transformers.sampling.row_draw import RowDraw
from handlers.chat.engines.transformers.sampling.sampler import Sampler
from shared.errors import GenerationError, JobError, OutOfMemory
from shared.models.oom import run_once

_NOT_FINITE = -1  # in place of a token
_NO_MEMORY = "There was not enough memory to choose the next token. Send the job again."


class SamplingStep:
    """The sampling of one token for each row. It is made before the forward pass, because it adds to its inputs.

    Args:
        samplers: The samplers of the rows.
        vocabulary_size: Token ids from here on are padding of the embedding and never sampled.
        inputs: Receives what is needed on the device.
    """

    def __init__(self, samplers: Sequence[Sampler], vocabulary_size: int, inputs: DeviceInputs) -> None:
        self._samplers = samplers
        self._vocabulary_size = vocabulary_size
        self._rows = [Containment() for _ in samplers]
        self._changes = LogitChanges(samplers, self._rows, vocabulary_size, inputs)
        self._masks = GrammarMasks(samplers, inputs)
        self._logprobs = RawLogprobs(samplers, inputs)
        stochastic = [row for row, sampler in enumerate(samplers) if sampler.temperature > 0]
        full = [row for row in stochastic if samplers[row].top_p >= 1.0]
        nucleus = [row for row in stochastic if samplers[row].top_p < 1.0]
        self._draws = [RowDraw(rows, samplers, inputs, top_k) for rows, top_k in ((full, None), (nucleus, TOP_K)) if rows]

    def sample(self, logits: Tensor) -> list[int | JobError]:
        """Samples the next token of each row.

        Args:
            logits: Rows × vocabulary, in the order of the samplers. May be modified.

        Returns:
            One token id per row, or the error of a row whose logits are not finite, or that has failed in another way.
        """
        logits = logits[:, : self._vocabulary_size].float()
        finite = logits.sum(-1).isfinite()
        self._logprobs.take(logits)
        self._changes.apply(logits)
        self._masks.apply(logits, self._rows)
        if (chosen := self._choose_twice(logits, finite)) is None:
            return [row.error or OutOfMemory(_NO_MEMORY) for row in self._rows]
        tokens, logprobs = chosen
        for index, (row, sampler, token) in enumerate(zip(self._rows, self._samplers, tokens, strict=True)):
            with row:
                if token == _NOT_FINITE:
                    raise GenerationError("The model's output is not finite. Send the job again.")
                if row.error is None:
                    sampler.accept(token)
                    sampler.sampled_logprob = logprobs.get(index)
        return [token if row.error is None else row.error for row, token in zip(self._rows, tokens, strict=True)]

    def _choose_twice(self, logits: Tensor, finite: Tensor) -> tuple[list[int], dict[int, SampledLogprob]] | None:
        """Chooses tokens; tries again after a first shortage of memory, and returns None after a second one."""
        work = partial(self._choose, logits, finite)
        enough, chosen = run_once(work)
        return chosen if enough else run_once(work)[1]

    def _choose(self, logits: Tensor, finite: Tensor) -> tuple[list[int], dict[int, SampledLogprob]]:
        tokens = logits.argmax(-1)
        for draw in self._draws:
            tokens = draw.into(tokens, logits)
        tokens = tokens.masked_fill(~finite, _NOT_FINITE)
        chosen = self._read(tokens)
        if wide := [row for row, token in enumerate(chosen[0]) if token == NOT_REACHED]:
            # Rare: the whole vocabulary is sorted for these rows, which takes longer than to wait once more.
            inputs = DeviceInputs(logits.device)
            tokens = RowDraw(wide, self._samplers, inputs, logits.shape[1]).into(tokens, logits)
            chosen = self._read(tokens)
        return chosen

    def _read(self, tokens: Tensor) -> tuple[list[int], dict[int, SampledLogprob]]:
        """Waits for the device. Returns the tokens, and the log probabilities of the rows that report them."""
        numbers = torch.cat((tokens, self._logprobs.of(tokens))).cpu().numpy()
        ids: list[int] = numbers[: len(self._rows)].tolist()
        return ids, self._logprobs.parse(numbers[len(self._rows) :], ids)
