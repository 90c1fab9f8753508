"""LoRA files for WAN as they are published: by lightx2v, DiffSynth, VideoX-Fun, musubi-tuner, for other sizes and variants of WAN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from handlers.wan.features.lora import lora_target
from handlers.wan.recipe import WanRecipe
from handlers.wan.weights.load import WanPipelines, load_wan
from shared.models.lora_files import Lora, read_lora
from shared.models.loras import merged
from shared.weights.addons import AddonLibrary
from shared.weights.errors import WeightsError
from tests.handlers.conftest import RecordedRun, generate, wan

WIDTH, RANK = 48, 4

PUBLISHED = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.cross_attn.o": "blocks.1.attn2.to_out.0",
    "blocks.0.ffn.2": "blocks.0.ffn.net.2",
    "blocks.0.norm3": "blocks.0.norm2",
    "blocks.0.self_attn.norm_q": "blocks.0.attn1.norm_q",
    "blocks.0.modulation": "blocks.0.scale_shift_table",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    "patch_embedding": "patch_embedding",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "vace_blocks.0.before_proj": "vace_blocks.0.proj_in",
    "vace_blocks.0.after_proj": "vace_blocks.0.proj_out",
    "vace_patch_embedding": "vace_patch_embedding",
}
"""Layers in the original implementation, and in diffusers."""


@pytest.fixture(scope="module")
def pipelines(tiny_models: Path) -> WanPipelines:
    return load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32)


def low_rank(layer: str, width: int = WIDTH) -> dict[str, Tensor]:
    return {f"{layer}.lora_down.weight": torch.randn(RANK, width), f"{layer}.lora_up.weight": torch.randn(width, RANK)}


def read(pipelines: WanPipelines, folder: Path, tensors: dict[str, Tensor]) -> Lora:
    save_file(tensors, folder / "ink.safetensors")
    return read_lora(folder / "ink.safetensors", lora_target(pipelines))


@pytest.mark.parametrize("prefix", ["diffusion_model.", "model.diffusion_model.", "", "lora_unet_", "lora_unet__", "lycoris_", "pipe.dit."])
@pytest.mark.parametrize("original", PUBLISHED)
def test_every_weight_has_its_published_name(pipelines: WanPipelines, tmp_path: Path, original: str, prefix: str) -> None:
    target = lora_target(pipelines)
    address = ("transformer", PUBLISHED[original])
    named = prefix + (original.replace(".", "_") if prefix.endswith("_") else original)
    lora = read(pipelines, tmp_path, {f"{named}.diff": torch.ones(target.layers[address].weight.shape)})
    assert list(lora.updates) == [address]
    before = target.layers[address].weight.clone()
    with merged(target, [(lora, 2.0)]):
        for module in target.layers[address].modules:
            torch.testing.assert_close(getattr(module, target.layers[address].parameter), before + 2)
    assert torch.equal(target.layers[address].weight, before)


def test_a_speed_lora_changes_factors_biases_norms_and_modulations(pipelines: WanPipelines, tmp_path: Path) -> None:
    tensors = low_rank("diffusion_model.blocks.0.self_attn.q") | {
        "diffusion_model.blocks.0.self_attn.q.diff_b": torch.ones(WIDTH),
        "diffusion_model.blocks.0.norm3.diff": torch.ones(WIDTH),
        "diffusion_model.blocks.0.norm3.diff_b": torch.ones(WIDTH),
        "diffusion_model.blocks.0.diff_m": torch.ones(1, 6, WIDTH),
        "diffusion_model.head.head.diff_b": torch.ones(64),
    }
    lora = read(pipelines, tmp_path, tensors)
    assert {name for _, name in lora.updates} == {"blocks.0.attn1.to_q", "blocks.0.norm2", "blocks.0.scale_shift_table", "proj_out"}
    block = pipelines.all[0].transformer.blocks[0]
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    with merged(lora_target(pipelines), [(lora, 1.0)]):
        changed = {name: tensor - before[name] for name, tensor in block.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed.keys() == {"attn1.to_q.weight", "attn1.to_q.bias", "norm2.weight", "norm2.bias", "scale_shift_table"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())


def test_layers_of_an_image_to_video_model_are_skipped_with_a_warning(pipelines: WanPipelines, tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    tensors = low_rank("diffusion_model.blocks.0.self_attn.q") | low_rank("diffusion_model.blocks.0.cross_attn.k_img")
    save_file(tensors | {"diffusion_model.img_emb.proj.1.diff_b": torch.ones(8)}, tmp_path / "loras" / "ink.safetensors")
    recorded = RecordedRun()
    generate(WanRecipe(pipelines, AddonLibrary(tmp_path)), wan(loras=[{"name": "ink"}]), recorded)
    (warning,) = recorded.run.warnings
    assert warning == (
        "LoRA 'ink' applies to 1 of its 3 layers; the others do not exist in this worker's WAN: "
        "'diffusion_model.blocks.0.cross_attn.k_img', 'diffusion_model.img_emb.proj.1'"
    )


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("diffusion_model.blocks.0.cross_attn.k_img", "this worker's WAN has none of the layers that it changes"),
        ("diffusion_model.vace_blocks.0.self_attn.q", "this job uses none of the layers that it changes"),
    ],
)
def test_a_lora_that_changes_nothing_of_the_job_is_named_in_a_warning(
    pipelines: WanPipelines, tmp_path: Path, layer: str, reason: str
) -> None:
    (tmp_path / "loras").mkdir()
    save_file(low_rank(layer), tmp_path / "loras" / "ink.safetensors")
    recorded, plain = RecordedRun(), RecordedRun()
    generate(WanRecipe(pipelines, AddonLibrary(tmp_path)), wan(loras=[{"name": "ink"}]), recorded)
    generate(WanRecipe(pipelines, AddonLibrary(tmp_path)), wan(), plain)
    assert (recorded.run.warnings, plain.run.warnings) == ([f"LoRA 'ink' has no effect: {reason}"], [])


def test_a_lora_for_vaces_blocks_affects_a_job_with_a_reference(pipelines: WanPipelines, tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    save_file(low_rank("diffusion_model.vace_blocks.0.self_attn.q"), tmp_path / "loras" / "ink.safetensors")
    recorded, request = RecordedRun(), wan(loras=[{"name": "ink"}], image="https://a.example/b.png")
    generate(WanRecipe(pipelines, AddonLibrary(tmp_path)), request, recorded, {next(iter(request.references)): Image.new("RGB", (64, 64))})
    assert recorded.run.warnings == []


@pytest.mark.parametrize(
    ("layer", "width", "reason"),
    [
        ("diffusion_model.blocks.0.self_attn.q", 5120, "changes a weight of shape 5120 × 5120, and that of this worker's WAN has 48 × 48"),
        ("diffusion_model.blocks.39.self_attn.q", WIDTH, "'diffusion_model.blocks.39.self_attn.q' does not belong to a LoRA for WAN"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, "it is a LoRA for SDXL, and this worker's model is WAN"),
    ],
)
def test_a_lora_for_another_model_is_refused(pipelines: WanPipelines, tmp_path: Path, layer: str, width: int, reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        read(pipelines, tmp_path, low_rank(layer, width))
