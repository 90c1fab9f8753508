"""Prompts become embeddings. A prompt that is longer than CLIP's window is encoded in several windows, not cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from handlers.sdxl.emphasis import Phrase
from handlers.sdxl.features.textual_inversion import Inversion, split

# The number of a token that has a vector of its own: any that does not end a text, for the pooled output is taken where that ends.
_ANY = 0


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """One token, how strongly it counts, and its embedding, width, where that is not the table's."""

    number: int
    weight: float = 1.0
    vector: Tensor | None = None


@dataclass(frozen=True)
class Embeddings:
    """What SDXL's UNet is conditioned on.

    Attributes:
        prompt: 1 × (77 × chunks) × the sum of both text encoders' widths.
        pooled: 1 × the second text encoder's projection width.
        negative: Like `prompt`, of the same length.
        negative_pooled: Like `pooled`.
    """

    prompt: Tensor
    pooled: Tensor
    negative: Tensor
    negative_pooled: Tensor

    def arguments(self) -> dict[str, Tensor]:
        """As the pipeline takes them."""
        return {
            "prompt_embeds": self.prompt,
            "pooled_prompt_embeds": self.pooled,
            "negative_prompt_embeds": self.negative,
            "negative_pooled_prompt_embeds": self.negative_pooled,
        }

    def for_width(self, width: int) -> dict[str, Tensor]:
        """As a pipeline takes them whose UNet may know the second text encoder alone: the last `width` numbers of each token."""
        return self.arguments() | {"prompt_embeds": self.prompt[..., -width:], "negative_prompt_embeds": self.negative[..., -width:]}


def embed(
    pipeline: Any,
    prompt: Sequence[Phrase],
    negative_prompt: Sequence[Phrase],
    clip_skip: int,
    words: Mapping[str, Inversion] = MappingProxyType({}),
) -> Embeddings:
    """Encodes both prompts with both text encoders.

    An absent negative prompt is encoded like an empty one. diffusers would take zeros for the first and text for the second, and no caller
    could tell why the pictures differ.

    Args:
        pipeline: A `StableDiffusionXLPipeline`.
        prompt: Any length.
        negative_prompt: Any length.
        clip_skip: Layers before the last but one that are left out, 0 … 2.
        words: What names in the prompts stand for.
    """
    hidden: list[list[Tensor]] = [[], []]
    pooled: list[Tensor] = []
    encoders = ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2))
    for number, (tokenizer, encoder) in enumerate(encoders):
        vectors = {name: inversion[number] for name, inversion in words.items()}
        prompts = [windows(tokenizer, phrases, vectors) for phrases in (prompt, negative_prompt)]
        length = max(len(parts) for parts in prompts)
        pooled = []
        for index, parts in enumerate(prompts):
            padded = parts + windows(tokenizer, ()) * (length - len(parts))
            states, pool = _encode(encoder, padded, clip_skip)
            hidden[index].append(states)
            pooled.append(pool)
    return Embeddings(torch.cat(hidden[0], dim=-1), pooled[0], torch.cat(hidden[1], dim=-1), pooled[1])


def windows(tokenizer: Any, phrases: Iterable[Phrase], vectors: Mapping[str, Tensor] = MappingProxyType({})) -> list[list[Token]]:
    """The tokens of a text in windows of CLIP's length, each with its start, its end and its padding; one window at least.

    Args:
        tokenizer: CLIP's.
        phrases: The text.
        vectors: What names in the text stand for: count × width.
    """
    tokens = [token for phrase in phrases for token in _tokens(tokenizer, phrase, vectors)]
    room = tokenizer.model_max_length - 2
    starts = range(0, max(len(tokens), 1), room)
    return [_window(tokenizer, tokens[start : start + room], room) for start in starts]


def _tokens(tokenizer: Any, phrase: Phrase, vectors: Mapping[str, Tensor]) -> Iterator[Token]:
    for text, name in split(phrase.text, vectors):
        if name is not None:
            yield from (Token(_ANY, phrase.weight, vector) for vector in vectors[name])
        else:
            numbers = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
            yield from (Token(number, phrase.weight) for number in numbers)


def _window(tokenizer: Any, tokens: list[Token], room: int) -> list[Token]:
    padding = [Token(tokenizer.pad_token_id)] * (room - len(tokens))
    return [Token(tokenizer.bos_token_id), *tokens, Token(tokenizer.eos_token_id), *padding]


def _encode(encoder: Any, tokens: list[list[Token]], clip_skip: int) -> tuple[Tensor, Tensor]:
    """1 × (windows × length) × width, and the first window's pooled output: SDXL was trained with the last layer but one (paper, 2.1)."""
    numbers = torch.tensor([[token.number for token in window] for window in tokens])
    with _vectors_in_place(encoder, tokens):
        output = encoder(numbers.to(encoder.device), output_hidden_states=True)
    weights = torch.tensor([[token.weight for token in window] for window in tokens])
    states = _emphasized(output.hidden_states[-(clip_skip + 2)], weights)
    return states.reshape(1, -1, states.shape[-1]), output[0][:1]


@contextmanager
def _vectors_in_place(encoder: Any, tokens: list[list[Token]]) -> Iterator[None]:
    """Has the encoder see the vectors of tokens that have one, instead of its table's, while the body runs."""
    vectors = {(row, column): token.vector for row, window in enumerate(tokens) for column, token in enumerate(window)}
    own = {place: vector for place, vector in vectors.items() if vector is not None}

    def put(_module: Any, _arguments: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        for (row, column), vector in own.items():
            changed[row, column] = vector.to(changed)
        return changed

    if not own:
        yield
        return
    hook = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()


def _emphasized(states: Tensor, weights: Tensor) -> Tensor:
    """Hidden states times their weights, then each window scaled to the mean it had: docs/decisions/0006.

    Args:
        states: Windows × length × width.
        weights: Windows × length.
    """
    if bool((weights == 1).all()):
        return states
    full = states.float()
    scaled = full * weights.to(states.device)[..., None]
    means, new = (each.mean(dim=(1, 2), keepdim=True) for each in (full, scaled))
    return (scaled * torch.where(new == 0, 1.0, means / new)).to(states.dtype)
