"""Converting an SDXL folder to a single-file checkpoint is the exact inverse of diffusers' loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from builder.weights.make_single_file import NotSdxl, main, make_single_file
from handlers.sdxl.weights.original_names import unet_name

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
PARAMETERS = {"width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "np"}


@pytest.fixture(params=["tiny", "small"])
def folder(request: pytest.FixtureRequest, tiny_models: Path, small_models: Path) -> Path:
    return (tiny_models if request.param == "tiny" else small_models) / "sdxl"


def generate(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    for part in PARTS:
        for tensor in getattr(pipeline, part).requires_grad_(False).parameters():
            tensor.data = tensor.data.clone()  # memory-mapped tensors may be misaligned, which changes the rounding of kernels
    return pipeline("a red circle on a blue background", generator=torch.Generator().manual_seed(7), **PARAMETERS).images[0]


def read_header(path: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}, file.metadata()  # noqa: SIM118 - not a dict


def test_loading_it_restores_every_tensor_and_generates_the_same_image(folder: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    file = tmp_path / "model.safetensors"
    make_single_file(folder, file)
    expected_pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    loaded_pipeline = StableDiffusionXLPipeline.from_single_file(file, config=str(folder), local_files_only=True, dtype=torch.float32)
    for part in PARTS:
        expected, found = getattr(expected_pipeline, part).state_dict(), getattr(loaded_pipeline, part).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert np.array_equal(generate(expected_pipeline), generate(loaded_pipeline))


def test_dtypes_and_sizes_are_preserved(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    make_single_file(folder, file)
    shapes, _ = read_header(file)
    sizes = [path.stat().st_size for part in PARTS for path in (folder / part).glob("*.safetensors")]
    assert sum(sizes) * 0.95 < file.stat().st_size < sum(sizes) * 1.05
    assert all(0 not in shape for shape in shapes.values())


def test_tensor_names_are_those_of_published_checkpoints(tiny_models: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    make_single_file(tiny_models / "sdxl", file)
    shapes, metadata = read_header(file)
    # The names by which loaders recognize SDXL, and each kind of layer once. The tiny model has the published levels and layers per level.
    assert shapes.keys() >= {
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.3.0.op.weight",
        "model.diffusion_model.input_blocks.4.0.skip_connection.weight",
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.input_blocks.8.0.emb_layers.1.weight",
        "model.diffusion_model.middle_block.1.proj_in.weight",
        "model.diffusion_model.middle_block.2.out_layers.3.bias",
        "model.diffusion_model.output_blocks.2.2.conv.weight",
        "model.diffusion_model.output_blocks.5.2.conv.weight",
        "model.diffusion_model.output_blocks.8.0.in_layers.2.weight",
        "model.diffusion_model.label_emb.0.0.weight",
        "model.diffusion_model.out.2.weight",
        "first_stage_model.encoder.down.0.downsample.conv.weight",
        "first_stage_model.encoder.mid.attn_1.q.weight",
        "first_stage_model.decoder.up.3.block.0.conv1.weight",
        "first_stage_model.decoder.up.1.upsample.conv.weight",
        "first_stage_model.post_quant_conv.bias",
        "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
        "conditioner.embedders.1.model.positional_embedding",
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
        "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_proj.bias",
        "conditioner.embedders.1.model.ln_final.weight",
        "conditioner.embedders.1.model.text_projection",
    }
    assert shapes["first_stage_model.encoder.mid.attn_1.q.weight"] == [32, 32, 1, 1]
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base"
    assert metadata["modelspec.prediction_type"] == "epsilon"


def test_the_upsampler_of_a_level_without_attention_has_the_preceding_index() -> None:
    assert unet_name("up_blocks.0.upsamplers.0.conv.bias", 2, (False, True, True)) == "output_blocks.2.1.conv.bias"


def test_the_header_of_the_small_sdxl_states_v_prediction(small_models: Path, tmp_path: Path) -> None:
    make_single_file(small_models / "sdxl", tmp_path / "model.safetensors")
    assert read_header(tmp_path / "model.safetensors")[1]["modelspec.prediction_type"] == "v"


def test_output_is_deterministic_and_leaves_no_temporary_file(tiny_models: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        assert main([str(tiny_models / "sdxl"), str(tmp_path / f"{name}.safetensors")]) == 0
    assert list(read_header(tmp_path / "one.safetensors")[0]) == list(read_header(tmp_path / "other.safetensors")[0])
    assert {path.name for path in tmp_path.iterdir()} == {"one.safetensors", "other.safetensors"}


@pytest.mark.parametrize("damage", ["another model", "missing file"])
def test_a_folder_that_is_not_a_complete_sdxl_is_rejected(
    damage: str, tmp_path: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sdxl"
    folder.mkdir()
    name = "WanVACEPipeline" if damage == "another model" else "StableDiffusionXLPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name, "unet": ["diffusers", "UNet2DConditionModel"]}))
    with pytest.raises(NotSdxl, match="is not a complete StableDiffusionXLPipeline folder"):
        make_single_file(folder, tmp_path / "model.safetensors")
    assert main([str(folder), str(tmp_path / "model.safetensors")]) == 1
    assert "is not a complete" in capsys.readouterr().err
    assert not (tmp_path / "model.safetensors").exists()
