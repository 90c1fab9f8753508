"""Log probabilities of the tokens of a completion."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TokenLogprob:
    """The log probability of a token, by the model's own logits.

    Attributes:
        token: Its text; with replacement characters if it is part of a character.
        logprob: The natural logarithm of its probability.
        bytes: Its UTF-8 bytes.
        top: The most likely tokens at its position, if they were requested.
    """

    token: str = field(repr=False)
    logprob: float
    bytes: tuple[int, ...] = field(repr=False)
    top: tuple[TokenLogprob, ...] = field(default=(), repr=False)
