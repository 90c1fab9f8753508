"""Prompts become embeddings. A prompt that is longer than CLIP's window is encoded in chunks, not cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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


def embed(pipeline: Any, prompt: str, negative_prompt: str | None, clip_skip: int) -> Embeddings:
    """Encodes both prompts with both text encoders.

    An absent negative prompt is encoded like an empty one. diffusers would take zeros for the first and text for the second, and no caller
    could tell why the pictures differ.

    Args:
        pipeline: A `StableDiffusionXLPipeline`.
        prompt: Any length.
        negative_prompt: Any length.
        clip_skip: Layers before the last but one that are left out, 0 … 2.
    """
    texts = (prompt, negative_prompt or "")
    hidden: list[list[Tensor]] = [[], []]
    pooled: list[Tensor] = []
    for tokenizer, encoder in ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)):
        chunks = [_chunks(tokenizer, text) for text in texts]
        length = max(len(parts) for parts in chunks)
        pooled = []
        for index, parts in enumerate(chunks):
            padded = parts + _chunks(tokenizer, "") * (length - len(parts))
            states, pool = _encode(encoder, torch.tensor(padded), clip_skip)
            hidden[index].append(states)
            pooled.append(pool)
    return Embeddings(torch.cat(hidden[0], dim=-1), pooled[0], torch.cat(hidden[1], dim=-1), pooled[1])


def _chunks(tokenizer: Any, text: str) -> list[list[int]]:
    """The text's tokens in windows of CLIP's length, each with its start, its end and its padding; one window at least."""
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    room = tokenizer.model_max_length - 2
    starts = range(0, max(len(ids), 1), room)
    return [_window(tokenizer, ids[start : start + room], room) for start in starts]


def _window(tokenizer: Any, ids: list[int], room: int) -> list[int]:
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * (room - len(ids))]


def _encode(encoder: Any, windows: Tensor, clip_skip: int) -> tuple[Tensor, Tensor]:
    """1 × (windows × length) × width, and the first window's pooled output: SDXL was trained with the last layer but one (paper, 2.1)."""
    output = encoder(windows.to(encoder.device), output_hidden_states=True)
    states = output.hidden_states[-(clip_skip + 2)]
    return states.reshape(1, -1, states.shape[-1]), output[0][:1]
