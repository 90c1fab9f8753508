"""Training of the small models: the loop resumes exactly, and every script runs from the data to a folder that a worker loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from handlers.sdxl.weights.load import load_sdxl
from handlers.wan.weights.load import load_wan
from small_models import train_addons, train_sdxl, train_wan
from small_models.training.addons import controlnet, image_encoder, ip_adapter, lora
from small_models.training.addons.evaluation import load_controlnet_pipeline, load_ip_adapter
from small_models.training.loop import TrainingConfig, train
from small_models.training.sdxl.generation import load_pipeline
from small_models.training.sdxl.text_encoders import TextEncoders
from small_models.training.wan import vae as wan_vae


def config(folder: Path, steps: int) -> TrainingConfig:
    return TrainingConfig("line", steps, 0.05, folder / "line.pt", ema_decay=0.9)


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def fit(model: nn.Linear, hyperparameters: TrainingConfig, steps: list[int], *, interrupt_at: int = -1) -> nn.Linear:
    """Fits y = 3x + 1 and records the steps."""

    def loss_at(step: int) -> Tensor:
        if step == interrupt_at:
            raise KeyboardInterrupt
        steps.append(step)
        x = torch.linspace(-1, 1, 16)[:, None]
        return nn.functional.mse_loss(model(x), 3 * x + 1)

    return train(model, loss_at, hyperparameters)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([weight.flatten() for weight in model.parameters()])


def test_the_loop_converges_and_keeps_frozen_parameters(tmp_path: Path) -> None:
    model = line()
    model.bias.requires_grad_(False)
    bias = model.bias.clone()
    trained = fit(model, config(tmp_path, 300), [])
    assert torch.equal(trained.bias, bias)
    assert float(trained.weight) == pytest.approx(3, abs=0.5)
    assert not any(parameter.requires_grad for parameter in trained.parameters())


def test_an_interrupted_run_resumes_to_the_same_weights_and_a_complete_one_makes_no_step(tmp_path: Path) -> None:
    uninterrupted = fit(line(), config(tmp_path / "whole", 40), [])
    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        fit(line(), config(tmp_path / "parts", 40), steps, interrupt_at=25)
    resumed = fit(line(), config(tmp_path / "parts", 40), steps)
    assert steps == list(range(40))
    assert torch.equal(weights(uninterrupted), weights(resumed))
    assert torch.equal(weights(fit(line(), config(tmp_path / "parts", 40), steps)), weights(resumed))
    assert len(steps) == 40


def test_training_encodes_captions_as_a_worker_does(small_models: Path) -> None:
    from handlers.sdxl.prompt_weights import WeightedText
    from handlers.sdxl.prompts import encode_prompts

    folder = small_models / "sdxl"
    pipeline = load_sdxl(folder, torch.device("cpu"), torch.float32)
    encoders = TextEncoders((CLIPTokenizer.from_pretrained(folder / "tokenizer"), CLIPTokenizer.from_pretrained(folder / "tokenizer_2")))
    encoders.text_encoder, encoders.text_encoder_2 = pipeline.text_encoder, pipeline.text_encoder_2
    for text in ("a small red star at the top left, striped blue background", ""):
        served = encode_prompts(pipeline, [WeightedText(text or "a")], [WeightedText(text)], clip_skip=0)
        states, pooled, _ = encoders([text])
        assert torch.allclose(states, served.negative, atol=1e-6)
        assert torch.allclose(pooled, served.negative_pooled, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_train_sdxl_writes_a_folder_that_a_worker_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_sdxl, "_IMAGES", 32)
    monkeypatch.setattr(train_sdxl, "_HELD_OUT_IMAGES", 4)
    steps = [f"--{stage}-steps=2" for stage in ("vae", "decoder", "text", "unet")]
    assert train_sdxl.main([str(tmp_path / "sdxl"), "--work", str(tmp_path / "work"), *steps]) == 0
    assert load_sdxl(tmp_path / "sdxl", torch.device("cpu"), torch.float32).scheduler.config.prediction_type == "v_prediction"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_train_addons_writes_add_ons_that_diffusers_loads(small_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lora, image_encoder, ip_adapter, controlnet):
        monkeypatch.setattr(module, "_IMAGES", 16)
    monkeypatch.setattr(image_encoder, "_HELD_OUT_IMAGES", 4)
    monkeypatch.setattr(ip_adapter, "_PRETRAINING_STEPS", 2)
    steps = [f"--{stage}-steps=2" for stage in ("lora", "image", "ip", "control")]
    assert train_addons.main([str(small_models / "sdxl"), str(tmp_path), "--work", str(tmp_path / "work"), *steps]) == 0
    pipeline: Any = load_pipeline(small_models / "sdxl")
    pipeline.load_lora_weights(str(tmp_path / "loras"), weight_name=lora.FILE_NAME)
    load_ip_adapter(pipeline, tmp_path / "ip_adapters")
    load_controlnet_pipeline(pipeline, tmp_path / "controlnets" / "canny")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_train_wan_writes_a_folder_that_a_worker_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_wan, "_CLIP_COUNTS", dict.fromkeys((1, 5, 9, 13, 17), 2))
    monkeypatch.setattr(train_wan, "_HELD_OUT_CLIPS", 2)
    monkeypatch.setattr(wan_vae, "_STATISTICS_CLIPS", 4)
    steps = [f"--{stage}-steps=2" for stage in ("text", "images", "clips", "transformer", "motion", "references")]
    assert train_wan.main([str(tmp_path / "wan"), "--work", str(tmp_path / "work"), *steps]) == 0
    assert load_wan(tmp_path / "wan", torch.device("cpu"), torch.float32).vace is not None
