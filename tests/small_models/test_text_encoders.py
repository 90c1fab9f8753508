"""The text encoders of the small SDXL: what they are asked in training, and that training feeds the UNet what serving does."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPTokenizer

from handlers.sdxl.prompt_weights import WeightedText
from handlers.sdxl.prompts import encode_prompts
from handlers.sdxl.weights.load import load_sdxl
from small_models.training.sdxl.text_encoders import ANSWERS, TextEncoders, answers
from small_models.training.shapes import PALETTE, PLACES, SHAPES, Figure, Scene

STAR = Figure("star", "green", "left", "small")
RING = Figure("ring", "black", "right", "small")


def test_every_attribute_of_a_scene_is_asked_for() -> None:
    told = answers(Scene((STAR, RING), "cyan", striped=True))
    colors, places = list(PALETTE), list(PLACES)
    star = [SHAPES.index("star"), colors.index("green"), places.index("left")]
    ring = [SHAPES.index("ring"), colors.index("black"), places.index("right")]
    assert told == [colors.index("cyan"), 1, *star, *ring]


def test_the_last_answer_says_that_there_is_no_second_figure() -> None:
    told = answers(Scene((STAR,), "cyan", striped=False))
    assert told[1] == 0
    assert told[5:] == [len(SHAPES), len(PALETTE), len(PLACES)] == [number - 1 for number in ANSWERS[5:]]


def test_training_encodes_captions_as_serving_does(small_models: Path) -> None:
    folder = small_models / "sdxl"
    pipeline = load_sdxl(folder, torch.device("cpu"), torch.float32)
    encoders = TextEncoders((CLIPTokenizer.from_pretrained(folder / "tokenizer"), CLIPTokenizer.from_pretrained(folder / "tokenizer_2")))
    encoders.text_encoder, encoders.text_encoder_2 = pipeline.text_encoder, pipeline.text_encoder_2
    for text in ("a small red star at the top left, striped blue background", ""):
        served = encode_prompts(pipeline, [WeightedText(text or "a")], [WeightedText(text)], clip_skip=0)
        states, pooled, _ = encoders([text])
        assert torch.allclose(states, served.negative, atol=1e-6)
        assert torch.allclose(pooled, served.negative_pooled, atol=1e-6)
