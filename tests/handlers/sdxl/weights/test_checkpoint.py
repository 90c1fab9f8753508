"""Single-file checkpoints, compared with the diffusers folder that they were made from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from structlog.testing import capture_logs
from transformers import CLIPTokenizer

from builder.weights.make_single_file import make_single_file
from handlers.sdxl.handler import load
from handlers.sdxl.weights.checkpoint import PUBLISHED_CONFIG, _empty
from handlers.sdxl.weights.load import load_sdxl
from shared.settings import Settings, SettingsError
from shared.weights.catalogue import SDXL
from shared.weights.errors import WeightsError
from shared.weights.resolve import resolve
from small_models.training.sdxl.generation import generate_image

CPU = torch.device("cpu")
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def make_checkpoint(folder: Path, target: Path) -> Path:
    """Converts a diffusers folder to a checkpoint with its configuration folder."""
    make_single_file(folder, target)
    shutil.copytree(folder, target.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    return target


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_every_tensor_equals_that_of_the_diffusers_folder(tiny_models: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    folder, file = tiny_models / "sdxl", make_checkpoint(tiny_models / "sdxl", tmp_path / "model.safetensors")
    expected, found = (load_sdxl(path, CPU, dtype) for path in (folder, file))
    for part in PARTS:
        theirs, ours = getattr(expected, part), getattr(found, part)
        assert [(name, value.dtype) for name, value in theirs.state_dict().items()] == [
            (name, value.dtype) for name, value in ours.state_dict().items()
        ]
        assert all(torch.equal(one, other) for one, other in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True))
        assert not any(parameter.requires_grad or parameter.is_meta for parameter in ours.parameters())
        assert not any(buffer.is_meta for buffer in ours.buffers())
        assert not ours.training
    assert found.vae.dtype == torch.float32  # it overflows in half precision
    assert found.scheduler.config == expected.scheduler.config


def test_the_image_equals_that_of_the_diffusers_folder_bit_for_bit(small_models: Path, tmp_path: Path) -> None:
    file = make_checkpoint(small_models / "sdxl", tmp_path / "sdxl.safetensors")
    one, other = (
        generate_image(load(Settings(sdxl_model=path, device="cpu")), "a red circle", 1) for path in (small_models / "sdxl", file)
    )
    assert np.array_equal(one, other)


def test_a_checkpoint_is_found_in_models_dir_and_by_an_explicit_path(tiny_models: Path, tmp_path: Path) -> None:
    file = tmp_path / "sdxl.safetensors"
    file.touch()
    (tmp_path / "other.safetensors").touch()
    no_other_places: dict[str, Any] = {name: tmp_path / "-" for name in ("baked_models_dir", "huggingface_cache", "volume_models_dir")}
    assert resolve(SDXL, Settings(models_dir=tmp_path, **no_other_places)) == file
    assert resolve(SDXL, Settings(sdxl_model=tmp_path / "other.safetensors")) == tmp_path / "other.safetensors"
    with pytest.raises(SettingsError, match=r"must name a complete diffusers folder or a \.safetensors file"):
        resolve(SDXL, Settings(sdxl_model=tmp_path / "nothing.safetensors"))


def test_the_log_has_the_duration_and_throughput_of_each_network(tiny_models: Path, tmp_path: Path) -> None:
    file = make_checkpoint(tiny_models / "sdxl", tmp_path / "model.safetensors")
    with capture_logs() as lines:
        load_sdxl(file, CPU, torch.float32)
    loaded = {line["component"]: line for line in lines if line["event"] == "loaded"}
    assert loaded.keys() == {f"sdxl/{part}" for part in PARTS}
    assert all(line["bytes"] > 0 and line["gb_per_s"] >= 0 and "seconds" in line for line in loaded.values())


def without_one(tensors: dict[str, Any]) -> None:
    del tensors["first_stage_model.decoder.conv_in.bias"]


def of_another_shape(tensors: dict[str, Any]) -> None:
    tensors["model.diffusion_model.out.2.weight"] = torch.zeros(3, 3)


@pytest.mark.parametrize("spoil", [without_one, of_another_shape])
def test_an_incomplete_checkpoint_is_refused(tiny_models: Path, tmp_path: Path, spoil: Callable[[dict[str, Any]], None]) -> None:
    file = make_checkpoint(tiny_models / "sdxl", tmp_path / "model.safetensors")
    tensors = load_file(file)
    spoil(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"The weights of sdxl/(vae|unet) cannot be used: (tensors are missing|the tensor .* has another shape)"
    ):
        load_sdxl(file, CPU, torch.float32)


def test_a_damaged_checkpoint_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    file = make_checkpoint(tiny_models / "sdxl", tmp_path / "model.safetensors")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="cannot be used"):
        load_sdxl(file, CPU, torch.float32)


def test_the_published_configuration_yields_networks_of_the_published_sizes() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kinds = (UNet2DConditionModel, AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection)
    networks = {part: _empty(kind, PUBLISHED_CONFIG / part) for part, kind in zip(PARTS, kinds, strict=True)}
    counts = {part: sum(parameter.numel() for parameter in network.parameters()) for part, network in networks.items()}
    assert counts == {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840}


@pytest.mark.parametrize(("part", "pad"), [("tokenizer", 49407), ("tokenizer_2", 0)])
def test_the_published_tokenizers_are_those_of_clip(part: str, pad: int) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(PUBLISHED_CONFIG / part, local_files_only=True)
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.pad_token_id == pad


UNET_WEIGHT = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
QKV = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"


@pytest.fixture
def checkpoint(tiny_models: Path, tmp_path: Path) -> Path:
    return make_checkpoint(tiny_models / "sdxl", tmp_path / "model.safetensors")


def change(file: Path, **changes: Any) -> None:
    save_file(load_file(file) | changes, file)


@pytest.mark.parametrize("scale_name", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("weight", [UNET_WEIGHT, QKV])
@pytest.mark.parametrize("per_row", [False, True])
def test_scaled_eight_bit_weights_are_read_with_their_scales(checkpoint: Path, scale_name: str, weight: str, per_row: bool) -> None:
    original = load_file(checkpoint)[weight]
    scale = original.abs().amax(dim=1, keepdim=True) / 448 if per_row else original.abs().max() / 448
    before = load_sdxl(checkpoint, CPU, torch.float32)
    stored = {weight: (original / scale).to(torch.float8_e4m3fn), f"{weight.removesuffix('.weight')}.{scale_name}": scale}
    change(checkpoint, **stored, **{"model.diffusion_model.scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)})
    after = load_sdxl(checkpoint, CPU, torch.float32)
    for part in ("unet", "text_encoder_2"):
        for one, other in zip(getattr(before, part).parameters(), getattr(after, part).parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0.07, atol=0.01)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("weight", [UNET_WEIGHT, "first_stage_model.decoder.conv_in.bias"])
def test_a_weight_that_is_not_finite_is_refused_by_name(checkpoint: Path, value: float, weight: str) -> None:
    tensor = load_file(checkpoint)[weight].clone()
    tensor.view(-1)[3] = value
    change(checkpoint, **{weight: tensor})
    with pytest.raises(WeightsError, match=r"1 tensors are not finite: .*(attn1\.to_q\.weight|decoder\.conv_in\.bias)"):
        load_sdxl(checkpoint, CPU, torch.float32)


def test_a_weight_beyond_the_range_of_half_precision_is_refused_by_name(checkpoint: Path) -> None:
    change(checkpoint, **{UNET_WEIGHT: torch.full_like(load_file(checkpoint)[UNET_WEIGHT], 1e9)})
    with pytest.raises(WeightsError, match=r"not finite: .*to_q\.weight"):
        load_sdxl(checkpoint, CPU, torch.float16)


def test_a_tensor_that_sdxl_does_not_have_is_refused_by_name(checkpoint: Path) -> None:
    change(checkpoint, **{"model.diffusion_model.motion_modules.0.weight": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"1 tensors do not belong to SDXL, such as 'model\.diffusion_model\.motion_modules\.0\.weight'"):
        load_sdxl(checkpoint, CPU, torch.float32)


def test_a_quantisation_that_is_not_supported_is_refused_by_name(checkpoint: Path) -> None:
    change(checkpoint, **{UNET_WEIGHT: torch.zeros_like(load_file(checkpoint)[UNET_WEIGHT], dtype=torch.int8)})
    with pytest.raises(WeightsError, match=r"to_q\.weight' is stored as int8, a quantisation that is not supported"):
        load_sdxl(checkpoint, CPU, torch.float32)


@pytest.mark.parametrize(
    "name",
    [
        "control_model.input_hint_block.0.weight",
        "lora_unet_middle_block_1_proj_in.lora_down.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
        "conditioner.embedders.2.model.proj.weight",
        "model_extra.weight",
        "v_predicted",
    ],
)
def test_a_tensor_outside_sdxls_networks_is_refused_by_name(checkpoint: Path, name: str) -> None:
    change(checkpoint, **{name: torch.zeros(2)})
    with pytest.raises(WeightsError, match=rf"The weights of sdxl cannot be used: 1 tensors do not belong to SDXL, such as '{name}'"):
        load_sdxl(checkpoint, CPU, torch.float32)


WITHOUT_EFFECT = (
    "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
    "conditioner.embedders.0.transformer.text_projection.weight",
    "conditioner.embedders.0.logit_scale",
    "conditioner.embedders.1.model.logit_scale",
    "model_ema.decay",
    "model_ema.diffusion_modelinput_blocks00weight",
    "denoiser.sigmas",
    "first_stage_model.loss.logvar",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "posterior_mean_coef1",
    "betas",
    "lvlb_weights",
    "optimizer.state.0.exp_avg",
    "lr_schedulers.0",
    "global_step",
    "scaled_fp8",
)


def test_tensors_without_effect_are_accepted(checkpoint: Path) -> None:
    change(checkpoint, **{name: torch.zeros(2) for name in WITHOUT_EFFECT})
    load_sdxl(checkpoint, CPU, torch.float32)
