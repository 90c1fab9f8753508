"""Log probabilities of sampled tokens, and the text of single tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from handlers.chat.logprobs import TokenLogprob

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# OpenAI's value for a token that is too unlikely for a number.
_LOWEST = -9999.0


@dataclass(frozen=True)
class SampledLogprob:
    """The log probability of a sampled token.

    Attributes:
        token: Its id.
        logprob: Natural logarithm, by the model's own logits: without temperature, penalties, biases and grammar, as in vLLM.
        top: The most likely tokens with their log probabilities.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class TokenDescriber:
    """Describes single tokens by text and bytes.

    Args:
        tokenizer: A fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
        decoder = str(tokenizer.backend_tokenizer.decoder)
        self._byte_of = _byte_level_alphabet() if "ByteLevel" in decoder else {}
        self._has_metaspace = "Metaspace" in decoder or "ByteFallback" in decoder

    def describe(self, sampled: SampledLogprob) -> TokenLogprob:
        """Describes a sampled token and its alternatives."""
        top = tuple(self._describe(token, logprob) for token, logprob in sampled.top)
        return self._describe(sampled.token, sampled.logprob, top)

    def _describe(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        content = self._bytes(token)
        return TokenLogprob(content.decode(errors="replace"), max(logprob, _LOWEST), tuple(content), top)

    def _bytes(self, token: int) -> bytes:
        if token in self._added:
            return str(self._added[token]).encode()
        piece: str = self._tokenizer.convert_ids_to_tokens(token) or ""
        if (byte := _BYTE_TOKEN.fullmatch(piece)) is not None:
            return bytes([int(byte[1], 16)])
        if piece and all(character in self._byte_of for character in piece):
            return bytes(self._byte_of[character] for character in piece)
        text: str = piece.replace("\u2581", " ") if self._has_metaspace else self._tokenizer.decode([token])
        return text.encode(errors="replace")


def _byte_level_alphabet() -> dict[str, int]:
    """Returns the byte of each character of byte-level tokens, as GPT-2 defines them: printable bytes are themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}
    if set(alphabet) != set(ByteLevel.alphabet()):
        raise RuntimeError("the alphabet of byte-level tokens has changed")
    return alphabet
