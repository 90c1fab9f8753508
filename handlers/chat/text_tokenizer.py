"""A tokenizer without control tokens, for text that others have written."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

_MAX_KEPT = 4  # a worker has two models
# Tokenizers of the families of Llama 2 and Gemma add a space before the text, but not before text that follows a control token.
_ANCHOR = "\0anchor"  # no request has a NUL
_BLANK = "\u2581 \t\r\n"


class TextTokenizer:
    """Encodes text in which control tokens are not recognised. Thread-safe.

    Args:
        backend: The tokenizer of a model. It is not changed.
    """

    def __init__(self, backend: Tokenizer) -> None:
        definition = json.loads(backend.to_str())
        added = definition["added_tokens"]
        control = {token["content"] for token in added if is_control(token["content"])}
        definition["added_tokens"] = [token for token in added if token["content"] not in control]
        _rename_pieces(definition["model"], control)
        self._backend = Tokenizer.from_str(json.dumps(definition))
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.add_tokens([_ANCHOR])

    def encode(self, text: str, *, starts: bool = True) -> list[int]:
        """Encodes text.

        Args:
            text: The text.
            starts: Whether nothing precedes it.
        """
        ids: list[int] = self._backend.encode(text if starts else _ANCHOR + text, add_special_tokens=False).ids
        return ids if starts else ids[1:]


def is_control(token: str) -> bool:
    """Whether an added token is a control token, and not a run of whitespace."""
    return bool(token.strip(_BLANK))


@lru_cache(_MAX_KEPT)
def text_tokenizer(tokenizer: Any, _size: int) -> TextTokenizer:
    """Returns the text tokenizer of a model's fast tokenizer; kept, because it takes up to a second to make.

    Args:
        tokenizer: The model's tokenizer.
        _size: The number of its tokens, because tokens may be added to it.
    """
    return TextTokenizer(tokenizer.backend_tokenizer)


def _rename_pieces(model: dict[str, Any], control: Collection[str]) -> None:
    """Renames control tokens in the vocabulary itself, where unigram and word-piece models would find them in a text."""
    made = {"".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in model.get("merges", ())}
    names = {token: f"\0{number}" for number, token in enumerate(sorted(set(control) - made))}
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): index for piece, index in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if isinstance(unknown := model.get("unk_token"), str):
        model["unk_token"] = names.get(unknown, unknown)
