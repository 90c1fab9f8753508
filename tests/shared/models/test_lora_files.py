"""Files of LoRAs: what is refused as what it is, and what their headers say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shared.weights.errors import WeightsError
from tests.shared.models.lora_net import IN, OUT, RANK, Net, assert_changes, rand, read


def refusal(net: Net, folder: Path, tensors: dict[str, Tensor], **header: str) -> str:
    with pytest.raises(WeightsError) as caught:
        read(net, folder, tensors, **header)
    return caught.value.reason


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["lora_unet_to_q.oft_blocks"], "it is an OFT, which cannot be merged"),
        (["lora_unet_to_q.a1.weight", "lora_unet_to_q.b1.weight"], "it is a GLoRA, which cannot be merged"),
        (["lora_unet_to_q.weight", "lora_unet_to_q.on_input"], "it is an IA³, which cannot be merged"),
        (["diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight"], "it is a LoRA for FLUX or HunyuanVideo"),
        (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "it is a LoRA for FLUX or HunyuanVideo"),
        (["transformer.joint_transformer_blocks.3.attn.to_q.lora_A.weight"], "it is a LoRA for SD 3"),
        (["diffusion_model.blocks.0.self_attn.q.lora_A.weight"], "it is a LoRA for WAN"),
        (
            ["lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a", "lora_unet_down_blocks_0_attentions_0_proj_in.hada_w1_a"],
            "it is a LoHa for SD 1.5",
        ),
        (["lora_te2_text_model_encoder_layers_0_mlp_fc1.lokr_w1", "lora_unet_input_blocks_4_1_proj_in.lokr_w1"], "it is a LoKr for SDXL"),
        (["encoder.layer.0.attention.weight"], "'encoder.layer.0.attention.weight' does not belong to a LoRA for Net"),
    ],
)
def test_what_is_refused_is_named(net: Net, tmp_path: Path, names: list[str], named: str) -> None:
    assert named in refusal(net, tmp_path, {name: rand(2, 2) for name in names})


@pytest.mark.parametrize(("width", "family"), [(768, "SD 1.5"), (1024, "SD 2"), (2048, "SDXL")])
def test_the_width_of_cross_attention_tells_the_model(net: Net, tmp_path: Path, width: int, family: str) -> None:
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{layer}.hada_w{half}_{side}": rand(*shape) for half in (1, 2) for side, shape in (("a", (8, 2)), ("b", (2, width)))}
    assert f"it is a LoHa for {family}, and this worker's model is Net" in refusal(net, tmp_path, tensors)


def test_the_header_tells_the_model_where_the_names_do_not(net: Net, tmp_path: Path) -> None:
    tensors = {"lora_unet_unknown.lora_down.weight": rand(2, 2), "lora_unet_unknown.lora_up.weight": rand(2, 2)}
    assert "it is a LoRA for SD 1.5" in refusal(net, tmp_path, tensors, ss_base_model_version="sd_v1")


def test_a_factor_is_missing_or_of_another_size(net: Net, tmp_path: Path) -> None:
    assert "lacks its factor 'up'" in refusal(net, tmp_path, {"to_q.lora_down.weight": rand(2, IN)})
    too_wide = {"to_q.lora_down.weight": rand(2, 99), "to_q.lora_up.weight": rand(OUT, 2)}
    assert "changes a weight of shape 8 × 99, and that of this worker's Net has 8 × 6" in refusal(net, tmp_path, too_wide)
    assert "has no factors" in refusal(net, tmp_path, {"to_q.alpha": torch.tensor(1.0)})
    mixed = {"to_q.diff": rand(OUT, IN), "to_q.lokr_w1": rand(2, 3), "to_q.lokr_w2": rand(4, 2)}
    assert "mixes LoKr and full difference" in refusal(net, tmp_path, mixed)


def test_a_layer_that_is_spelt_twice_must_have_one_value(net: Net, tmp_path: Path) -> None:
    twice = {"unet.to_q.diff": torch.ones(OUT, IN), "lora_unet_to_q.diff": torch.ones(OUT, IN)}
    assert_changes(net, read(net, tmp_path, twice), {"to_q.weight": torch.ones(OUT, IN)})
    twice["unet.to_q.diff"] = torch.zeros(OUT, IN)
    assert "occurs twice in it, with different values" in refusal(net, tmp_path, twice)


def low_rank(layer: str = "conv") -> dict[str, Tensor]:
    kernel = (3, 3) if layer == "conv" else ()
    return {f"{layer}.lora_A.weight": rand(RANK, IN, *kernel), f"{layer}.lora_B.weight": rand(OUT, RANK, *[1] * len(kernel))}


@pytest.mark.parametrize(
    ("header", "scaling"),
    [
        ({"lora_adapter_metadata": '{"unet.lora_alpha": 1, "unet.alpha_pattern": {"to_(q|k)": 8}}'}, 4),
        ({"lora_adapter_metadata": '{"unet.lora_alpha": 8, "unet.alpha_pattern": {"o_q": 2}}'}, 4),
        ({"lora_adapter_metadata": '{"unet.lora_alpha": 2, "unet.alpha_pattern": {"to_q": 8, ".*": 2}}'}, 4),
        ({"lora_adapter_metadata": '{"lora_alpha": 8}'}, 4),
        ({"lora_adapter_metadata": '{"unet.lora_alpha": 8, "unet.use_rslora": true}'}, 8 / RANK**0.5),
        ({"ss_network_alpha": "8", "ss_network_dim": "2"}, 4),
        ({"lora_alpha": "8", "r": "2"}, 4),
        ({"ss_network_alpha": "None"}, 1),
        ({}, 1),
    ],
)
def test_alpha_comes_from_the_header(net: Net, tmp_path: Path, header: dict[str, str], scaling: float) -> None:
    (update,) = read(net, tmp_path, low_rank("to_q"), **header).updates.values()
    assert update.scaling == pytest.approx(scaling)


def test_kohyas_header_has_an_alpha_of_its_own_for_convolutions(net: Net, tmp_path: Path) -> None:
    header = {"ss_network_alpha": "8", "ss_network_args": '{"conv_dim": "2", "conv_alpha": "1"}'}
    lora = read(net, tmp_path, low_rank("conv") | low_rank("to_q"), **header)
    assert {layer[1]: update.scaling for layer, update in lora.updates.items()} == {"conv": 0.5, "to_q": 4.0}


@pytest.mark.parametrize("pattern", ["(", "x" * 600])
def test_a_pattern_that_cannot_be_matched_is_refused(net: Net, tmp_path: Path, pattern: str) -> None:
    header = json.dumps({"unet.alpha_pattern": {pattern: 8}})
    assert "the scaling of the layer 'to_q' is not a number" in refusal(net, tmp_path, low_rank("to_q"), lora_adapter_metadata=header)
