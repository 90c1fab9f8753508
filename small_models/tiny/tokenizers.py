"""Small tokenizers of the published types, written with the file layout of the published folders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from small_models.tiny.corpus import SENTENCES

CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
CLIP_CONTEXT = 77
QWEN_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_CONTEXT = 2048

_WORD_END = "</w>"
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())

# Like the published template, it adds a default system prompt if there is none, drops unknown roles, which a worker must handle, and has
# tools and their calls in Qwen's format.
_TOOLS = (
    "{% if tools %}\n\nTools:\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    'A call: <tool_call>\n{"name": "…", "arguments": {}}\n</tool_call>{% endif %}'
)
_TOOL_CALLS = (
    "{% for call in message['tool_calls'] or [] %}{% if message['content'] or not loop.first %}\n{% endif %}<tool_call>\n"
    "{\"name\": {{ call['function']['name'] | tojson }}, \"arguments\": {{ call['function']['arguments'] | tojson }}}\n"
    "</tool_call>{% endfor %}"
)
_CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a small assistant." + _TOOLS + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}{% if message['role'] in ('system', 'user', 'assistant') %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% if message['role'] == 'system' and loop.first %}" + _TOOLS + "{% endif %}" + _TOOL_CALLS + "<|im_end|>\n"
    "{% elif message['role'] == 'tool' %}<|im_start|>user\n<tool_response>\n{{ message['content'] }}\n</tool_response><|im_end|>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON deterministically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _learn_merges(corpus: Iterable[str], *, word_end: str = "", limit: int = 400) -> list[tuple[str, str]]:
    # The library's trainer is not deterministic: its choice among equally frequent pairs changes from run to run.
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    counts = Counter(word for sentence in corpus for word, _ in splitter.pre_tokenize_str(sentence))
    words = {word: [*word[:-1], word[-1] + word_end] for word in counts}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in words.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        pair, count = max(pairs.items(), key=lambda item: (item[1], item[0]), default=(("", ""), 0))
        if count < 2:
            break
        merges.append(pair)
        words = {word: _merge(pieces, pair) for word, pieces in words.items()}
    return merges


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def _write_bpe(folder: Path, vocabulary: list[str], merges: list[tuple[str, str]]) -> None:
    write_json(folder / "vocab.json", {piece: number for number, piece in enumerate(vocabulary)})
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_clip(folder: Path, *, pad: str, corpus: Iterable[str] = SENTENCES, context_length: int = CLIP_CONTEXT) -> int:
    """Writes CLIP's byte-level BPE. Its vocabulary: bytes, bytes at the end of a word, merges, start and end token, in that order.

    Args:
        folder: The tokenizer's folder.
        pad: The padding token: the end token for SDXL's first tokenizer, `!` for its second.
        corpus: The training text.
        context_length: The maximum number of tokens.

    Returns:
        The size of the vocabulary. The end token has the highest id, on which CLIP's pooling relies.
    """
    merges = _learn_merges((word for sentence in corpus for word in sentence.lower().split()), word_end=_WORD_END)
    merged = [left + right for left, right in merges]
    vocabulary = [*_ALPHABET, *(letter + _WORD_END for letter in _ALPHABET), *dict.fromkeys(merged), CLIP_START, CLIP_END]
    _write_bpe(folder, vocabulary, merges)
    special = {"bos_token": CLIP_START, "eos_token": CLIP_END, "unk_token": CLIP_END, "pad_token": pad}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {**special, "model_max_length": context_length, "tokenizer_class": "CLIPTokenizer"})
    return len(vocabulary)


def write_t5(folder: Path, *, corpus: Iterable[str] = SENTENCES) -> int:
    """Writes a Unigram tokenizer like UMT5's, with the words and letters of a corpus as its pieces.

    Args:
        folder: The tokenizer's folder.
        corpus: The text.

    Returns:
        The size of the vocabulary.
    """
    words = Counter("▁" + word for sentence in corpus for word in sentence.split())
    letters = Counter(letter for word in words for letter in word)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(word, -3.0) for word in sorted(words) if len(word) > 1]
    pieces += [(letter, -9.0) for letter in sorted(letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {**special, "extra_ids": 0, "model_max_length": 512, "tokenizer_class": "T5TokenizerFast"})
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(pieces)


def write_qwen(folder: Path, *, pad: str, eos: str) -> int:
    """Writes Qwen2's byte-level BPE with its control tokens and a ChatML template.

    Args:
        folder: The model's folder.
        pad: The padding token.
        eos: The end token: `<|im_end|>` for an instruct model, `<|endoftext|>` for a base model.

    Returns:
        The size of the vocabulary.
    """
    merges = _learn_merges(SENTENCES)
    vocabulary = [*_ALPHABET, *dict.fromkeys(left + right for left, right in merges)]
    _write_bpe(folder, vocabulary, merges)
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in QWEN_CONTROL])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": QWEN_CONTEXT,
        "eos_token": eos,
        "pad_token": pad,
        "bos_token": None,
        "unk_token": None,
        "additional_special_tokens": list(QWEN_CONTROL[1:]),
        "chat_template": _CHATML,
    }
    write_json(folder / "tokenizer_config.json", config)
    return tokenizer.get_vocab_size(with_added_tokens=True)
