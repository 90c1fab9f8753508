"""Prompt encoding with both of SDXL's text encoders. Prompts longer than CLIP's context are encoded in chunks, not truncated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from handlers.sdxl.prompt_weights import WeightedText

TextualInversion = tuple[Tensor, Tensor]
"""The embeddings of one name, for each text encoder: count × width."""

# The token id below an embedding of a textual inversion. Any id but that of the end token, which marks the pooled output's position.
_PLACEHOLDER = 0


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


def encode_prompts(
    pipeline: Any,
    prompt: Sequence[WeightedText],
    negative_prompt: Sequence[WeightedText],
    clip_skip: int,
    textual_inversions: Mapping[str, TextualInversion] = MappingProxyType({}),
) -> PromptEmbeddings:
    """Tokenises and encodes both prompts, once per text encoder.

    An absent negative prompt is encoded as an empty one. diffusers would use zeros for the former and encode the latter, a difference that
    a caller could not explain.

    Args:
        pipeline: A `StableDiffusionXLPipeline`.
        prompt: Of any length.
        negative_prompt: Of any length.
        clip_skip: Layers skipped before the penultimate one, 0 … 2.
        textual_inversions: By the names that stand for them in the prompts.
    """
    hidden: list[list[Tensor]] = [[], []]
    pooled: list[Tensor] = []
    encoders = ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2))
    for number, (tokenizer, encoder) in enumerate(encoders):
        embeddings = {name: inversion[number] for name, inversion in textual_inversions.items()}
        prompts = [tokenize(tokenizer, texts, embeddings) for texts in (prompt, negative_prompt)]
        length = max(len(chunks) for chunks in prompts)
        pooled = []
        for index, chunks in enumerate(prompts):
            padded = chunks + tokenize(tokenizer, ()) * (length - len(chunks))
            states, pool = _encode(encoder, padded, clip_skip)
            hidden[index].append(states)
            pooled.append(pool)
    return PromptEmbeddings(torch.cat(hidden[0], dim=-1), pooled[0], torch.cat(hidden[1], dim=-1), pooled[1])


def tokenize(tokenizer: Any, texts: Iterable[WeightedText], embeddings: Mapping[str, Tensor] = MappingProxyType({})) -> list[list[Token]]:
    """Tokenises a prompt into chunks of CLIP's context length, each with start, end and padding tokens; at least one chunk.

    Args:
        tokenizer: A CLIP tokenizer.
        texts: The prompt.
        embeddings: Of textual inversions, by name: count × width.
    """
    tokens = [token for text in texts for token in _tokens(tokenizer, text, embeddings)]
    capacity = tokenizer.model_max_length - 2
    starts = range(0, max(len(tokens), 1), capacity)
    return [_chunk(tokenizer, tokens[start : start + capacity], capacity) for start in starts]


def split_at_names(text: str, names: Mapping[str, object]) -> Iterator[tuple[str, str | None]]:
    """Splits a text at the names of textual inversions.

    A name matches as a whole word, case-insensitively, or in angle brackets; of overlapping names the longest wins.

    Yields:
        The pieces in order, each with the name that it matches, or None for plain text.
    """
    if not names:
        yield text, None
        return
    spelt = {name.lower(): name for name in names}
    words = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    for piece in re.split(rf"(<(?:{words})>|(?<!\w)(?:{words})(?!\w))", text, flags=re.IGNORECASE):
        yield piece, spelt.get(piece.lower().removeprefix("<").removesuffix(">"))


def _tokens(tokenizer: Any, text: WeightedText, embeddings: Mapping[str, Tensor]) -> Iterator[Token]:
    for piece, name in split_at_names(text.text, embeddings):
        if name is not None:
            yield from (Token(_PLACEHOLDER, text.weight, embedding) for embedding in embeddings[name])
        else:
            ids = tokenizer(piece, add_special_tokens=False, truncation=False, verbose=False).input_ids
            yield from (Token(id_, text.weight) for id_ in ids)


def _chunk(tokenizer: Any, tokens: list[Token], capacity: int) -> list[Token]:
    padding = [Token(tokenizer.pad_token_id)] * (capacity - len(tokens))
    return [Token(tokenizer.bos_token_id), *tokens, Token(tokenizer.eos_token_id), *padding]


def _encode(encoder: Any, chunks: list[list[Token]], clip_skip: int) -> tuple[Tensor, Tensor]:
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
