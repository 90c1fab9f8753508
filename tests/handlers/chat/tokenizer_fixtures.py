"""Small tokenizers of the families that detokenise differently: byte-level, byte fallback, unigram and word pieces."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_WORDS = ("\u2581", "a", "b", "e", "\u2581a", "\u2581caf", "ing", "<", "0", "x", "n")
_SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def _byte_vocabulary() -> dict[str, int]:
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    return {token: index for index, token in enumerate(("<unk>", "<s>", "</s>", *bytes_, *_WORDS))}


def byte_fallback() -> PreTrainedTokenizerFast:
    """Like the tokenizers of Llama 2, Mistral and Gemma."""
    tokenizer = Tokenizer(models.BPE(vocab=_byte_vocabulary(), merges=[("\u2581", "a")], byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    spaces = decoders.Replace("\u2581", " ")
    tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return _finished(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    """Like the tokenizers of T5 and XLNet, with byte fallback."""
    tokenizer = Tokenizer(models.Unigram([(token, -1.0) for token in _byte_vocabulary()], unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return _finished(tokenizer)


def word_pieces() -> PreTrainedTokenizerFast:
    """Like BERT's, whose decoder removes the space before punctuation afterwards."""
    words = ("<unk>", "<s>", "</s>", "do", "n", "##n", "'", "t", ".", ",", "hello", "##ing", "?")
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _finished(tokenizer)


def byte_level() -> PreTrainedTokenizerFast:
    """Like GPT-2's and Qwen's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(("<unk>", "<s>", "</s>", *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer)


def _finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL.values()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)


TOKENIZERS = {"byte fallback": byte_fallback, "unigram": unigram, "word pieces": word_pieces, "byte level": byte_level}
