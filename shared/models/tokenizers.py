"""Loads one tokenizer from a local folder and checks that it belongs to its model. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.weights.errors import WeightsError, weights_error

# A tokenizer may have fewer tokens than its model has embeddings (whose number is padded), but not many fewer.
_MIN_VOCABULARY_SHARE = 0.9


def load_tokenizer(cls: Any, folder: Path, *, name: str, vocabulary_size: int, required_tokens: Sequence[str], **options: Any) -> Any:
    """Loads one tokenizer.

    Args:
        cls: The class, with a `from_pretrained` like that of transformers.
        folder: The tokenizer's folder.
        name: The tokenizer in messages.
        vocabulary_size: How many tokens its model has embeddings for.
        required_tokens: The special tokens that the model needs: `bos`, `eos`, `pad`.
        options: Passed on to `from_pretrained`.

    Raises:
        WeightsError: The files are damaged or missing (for which the libraries silently build a tokenizer of three tokens), the vocabulary
            belongs to another model, or a special token is not defined.
    """
    try:
        tokenizer = cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise weights_error(name, error) from error
    reasons = []
    if not vocabulary_size * _MIN_VOCABULARY_SHARE <= len(tokenizer) <= vocabulary_size:
        reasons.append(f"it has {len(tokenizer)} tokens, but its model has {vocabulary_size}")
    reasons += [f"it has no {token} token" for token in required_tokens if getattr(tokenizer, f"{token}_token_id") is None]
    if reasons:
        raise WeightsError(name, "; ".join(reasons))
    return tokenizer
