"""Prompt encoding with both of SDXL's text encoders. Prompts longer than CLIP's context are encoded in chunks, not truncated."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from cachetools import LRUCache, cached
from torch import Tensor

from handlers.sdxl.prompt_weights import WeightedText
from handlers.sdxl.request import SdxlRequest
from shared.contract.names import quote_name

TextualInversion = tuple[Tensor, Tensor]
"""The embeddings of one name, for each text encoder: count × width."""

# The token id below an embedding of a textual inversion. Any id but that of the end token, which marks the pooled output's position.
_PLACEHOLDER = 0
_CACHE_LIMIT = 64 * 2**20  # bytes: a hundred prompts of one chunk
_REFERENCE = re.compile(r"(?<!\w)embedding:(?=\w)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """One token of a chunk.

    Attributes:
        id: Its id in the vocabulary.
        weight: The prompt weight.
        embedding: Replaces the embedding table's row: width.
    """

    id: int
    weight: float = 1.0
    embedding: Tensor | None = None


_Chunks = list[list[Token]]

TextEmbeddings = tuple[Tensor, Tensor]
"""Of one prompt: hidden states of both text encoders, and the pooled output of the second."""


@dataclass(frozen=True)
class PromptEmbeddings:
    """The text conditioning of SDXL's UNet.

    Attributes:
        prompt: 1 × (77 × chunks) × the sum of both text encoders' widths.
        pooled: 1 × the projection width of the second text encoder.
        negative: As `prompt`, of the same length.
        negative_pooled: As `pooled`.
    """

    prompt: Tensor
    pooled: Tensor
    negative: Tensor
    negative_pooled: Tensor

    def arguments(self) -> dict[str, Tensor]:
        """Returns the arguments for a pipeline call."""
        return {
            "prompt_embeds": self.prompt,
            "pooled_prompt_embeds": self.pooled,
            "negative_prompt_embeds": self.negative,
            "negative_pooled_prompt_embeds": self.negative_pooled,
        }

    def for_width(self, width: int) -> dict[str, Tensor]:
        """Returns the arguments for a UNet that may attend to the second text encoder only: the last `width` channels."""
        return self.arguments() | {"prompt_embeds": self.prompt[..., -width:], "negative_prompt_embeds": self.negative[..., -width:]}


def prompt_warnings(request: SdxlRequest) -> list[str]:
    """Returns a warning for each text of a request that cannot affect its images."""
    found = []
    if request.negative_prompt and request.guidance_scale == 1:
        found.append("`negative_prompt` has no effect, because `config.guidance_scale` is 1")
    names = dict.fromkeys(request.textual_inversions)
    texts = [text.text for text in (*request.weighted_prompt, *request.weighted_negative_prompt)]
    pieces = [piece for text in texts for piece in split_at_names(text, names)]
    if unlisted := sum(len(_REFERENCE.findall(piece)) for piece, name in pieces if name is None):
        found.append(
            f"{unlisted} of the `embedding:` in the prompts are read as text, because `config.textual_inversions` lacks their names"
        )
    used = {name for _, name in pieces}
    return found + [
        f"`config.textual_inversions`: {quote_name(name)} has no effect, because no prompt contains its name"
        for name in names
        if name not in used
    ]


def embedding_cache(limit: int = _CACHE_LIMIT) -> LRUCache[Any, TextEmbeddings]:
    """Returns a cache of embeddings: prompts repeat between jobs, negative ones most of all.

    Args:
        limit: Bytes to keep. Embeddings larger than that are computed each time.
    """
    return LRUCache(limit, getsizeof=lambda embeddings: sum(tensor.nbytes for tensor in embeddings))


def encode_prompts(
    pipeline: Any,
    prompt: Sequence[WeightedText],
    negative_prompt: Sequence[WeightedText],
    clip_skip: int,
    textual_inversions: Mapping[str, TextualInversion] = MappingProxyType({}),
    cache: LRUCache[Any, TextEmbeddings] | None = None,
    weights: Hashable = (),
) -> PromptEmbeddings:
    """Tokenises and encodes both prompts, once per text encoder.

    An absent negative prompt is encoded as an empty one. diffusers would use zeros for the former and encode the latter, a difference that
    a caller could not explain.

    Args:
        pipeline: A `StableDiffusionXLPipeline`.
        prompt: Of any length.
        negative_prompt: Of any length.
        clip_skip: How many layers before the penultimate one the hidden states are taken from, 0 … 2.
        textual_inversions: By the names that stand for them in the prompts.
        cache: Serves and keeps the embeddings of prompts; None: each is encoded.
        weights: Tells apart what the same prompt is encoded with: LoRAs in the text encoders, textual inversions.
    """
    encoders = ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2))
    chunked: list[list[_Chunks]] = [[], []]
    for number, (tokenizer, _) in enumerate(encoders):
        embeddings = {name: inversion[number] for name, inversion in textual_inversions.items()}
        chunks = [tokenize(tokenizer, texts, embeddings) for texts in (prompt, negative_prompt)]
        length = max(len(each) for each in chunks)
        for of_text, each in zip(chunked, chunks, strict=True):
            of_text.append(each + tokenize(tokenizer, ()) * (length - len(each)))
    encode = cached(
        cache if cache is not None else embedding_cache(),
        key=lambda texts, chunks: (tuple(texts), tuple(len(each) for each in chunks), clip_skip, weights),
    )(lambda texts, chunks: _encode_text(pipeline, chunks, clip_skip))
    (positive, pooled), (negative, negative_pooled) = map(encode, (prompt, negative_prompt), chunked)
    return PromptEmbeddings(positive, pooled, negative, negative_pooled)


def tokenize(tokenizer: Any, texts: Iterable[WeightedText], embeddings: Mapping[str, Tensor] = MappingProxyType({})) -> list[list[Token]]:
    """Tokenises a prompt into chunks of CLIP's context length, each with start, end and padding tokens; at least one chunk.

    Chunks end between words and between embeddings, as long as these fit into one.

    Args:
        tokenizer: A CLIP tokenizer.
        texts: The prompt.
        embeddings: Of textual inversions, by name: count × width.
    """
    capacity = tokenizer.model_max_length - 2
    chunks: list[list[Token]] = [[]]
    for word in _words(tokenizer, texts, embeddings):
        for part in _parts(tokenizer, word, capacity):
            if len(chunks[-1]) + len(part) > capacity:
                chunks.append([])
            chunks[-1] += part
    return [_chunk(tokenizer, chunk, capacity) for chunk in chunks]


def split_at_names(text: str, names: Mapping[str, object]) -> Iterator[tuple[str, str | None]]:
    """Splits a text at the names of textual inversions.

    A name matches as a whole word, case-insensitively, in angle brackets, or after `embedding:`; of overlapping names the longest wins.

    Yields:
        The pieces in order, each with the name that it matches, or None for plain text.
    """
    if not names:
        yield text, None
        return
    spelt = {name.lower(): name for name in names}
    words = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    for piece in re.split(rf"(<(?:{words})>|(?<!\w)(?:embedding:)?(?:{words})(?!\w))", text, flags=re.IGNORECASE):
        yield piece, spelt.get(piece.lower().removeprefix("embedding:").removeprefix("<").removesuffix(">"))


def _words(tokenizer: Any, texts: Iterable[WeightedText], embeddings: Mapping[str, Tensor]) -> Iterator[list[Token]]:
    """Yields the tokens of each word, which ends at white space even where its weight changes, and of each embedding."""
    open_word: list[Token] = []
    for text in texts:
        for piece, name in split_at_names(text.text, embeddings):
            if name is not None:
                yield from (open_word, [Token(_PLACEHOLDER, text.weight, embedding) for embedding in embeddings[name]])
                open_word = []
                continue
            for index, ids in enumerate(_tokenize_words(tokenizer, piece)):
                if index:
                    yield open_word
                    open_word = []
                open_word += [Token(id_, text.weight) for id_ in ids]
    yield open_word


def _tokenize_words(tokenizer: Any, piece: str) -> list[list[int]]:
    """Returns the ids of each word; none of the first or the last if the piece begins or ends with white space."""
    words = re.split(r"\s+", piece)
    if not any(words):
        return [[] for _ in words]
    encoded = iter(tokenizer([word for word in words if word], add_special_tokens=False, truncation=False, verbose=False).input_ids)
    return [next(encoded) if word else [] for word in words]


def _parts(tokenizer: Any, word: list[Token], capacity: int) -> Iterator[list[Token]]:
    """Splits a word that is longer than a chunk, such as text without spaces, where CLIP's vocabulary ends a word."""
    while len(word) > capacity:
        ends = [index for index in range(1, capacity + 1) if _ends_word(tokenizer, word[index - 1])]
        cut = ends[-1] if ends else capacity
        yield word[:cut]
        word = word[cut:]
    yield word


def _ends_word(tokenizer: Any, token: Token) -> bool:
    return token.embedding is None and str(tokenizer.convert_ids_to_tokens(token.id)).endswith("</w>")


def _chunk(tokenizer: Any, tokens: list[Token], capacity: int) -> list[Token]:
    padding = [Token(tokenizer.pad_token_id)] * (capacity - len(tokens))
    return [Token(tokenizer.bos_token_id), *tokens, Token(tokenizer.eos_token_id), *padding]


def _encode_text(pipeline: Any, chunks: Sequence[_Chunks], clip_skip: int) -> TextEmbeddings:
    """Encodes one prompt.

    Args:
        pipeline: A `StableDiffusionXLPipeline`.
        chunks: Of each text encoder.
        clip_skip: As for `encode_prompts`.

    Returns:
        Hidden states, 1 × (chunks × length) × the sum of both widths, and the pooled output of the second text encoder.
    """
    first, _ = _encode(pipeline.text_encoder, chunks[0], clip_skip)
    second, pooled = _encode(pipeline.text_encoder_2, chunks[1], clip_skip)
    return torch.cat([first, second], dim=-1), pooled


def _encode(encoder: Any, chunks: _Chunks, clip_skip: int) -> tuple[Tensor, Tensor]:
    """Encodes chunks as one batch. SDXL was trained with the penultimate layer (paper, section 2.1).

    Returns:
        Hidden states, 1 × (chunks × length) × width, and the pooled output of the first chunk.
    """
    ids = torch.tensor([[token.id for token in chunk] for chunk in chunks])
    with _replaced_embeddings(encoder, chunks):
        output = encoder(ids.to(encoder.device), output_hidden_states=True)
    weights = torch.tensor([[token.weight for token in chunk] for chunk in chunks])
    states = _apply_weights(output.hidden_states[-(clip_skip + 2)], weights)
    return states.reshape(1, -1, states.shape[-1]), output[0][:1]


@contextmanager
def _replaced_embeddings(encoder: Any, chunks: list[list[Token]]) -> Iterator[None]:
    """Replaces the embedding table's rows by the tokens' own embeddings while the body runs."""
    all_embeddings = {(row, column): token.embedding for row, chunk in enumerate(chunks) for column, token in enumerate(chunk)}
    replaced = {place: embedding for place, embedding in all_embeddings.items() if embedding is not None}

    def replace(_module: Any, _arguments: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        for (row, column), embedding in replaced.items():
            changed[row, column] = embedding.to(changed)
        return changed

    if not replaced:
        yield
        return
    hook = encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


def _apply_weights(states: Tensor, weights: Tensor) -> Tensor:
    """Multiplies hidden states by prompt weights and rescales each chunk to its former mean: docs/decisions/0006.

    Args:
        states: Chunks × length × width.
        weights: Chunks × length.
    """
    if bool((weights == 1).all()):
        return states
    full = states.float()
    scaled = full * weights.to(states.device)[..., None]
    means, new = (each.mean(dim=(1, 2), keepdim=True) for each in (full, scaled))
    return (scaled * torch.where(new == 0, 1.0, means / new)).to(states.dtype)
