"""LoRAs of every kind and spelling, on a small network: what they change, and that it is undone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared.models.lora_files import Lora, lora_size, read_lora
from shared.models.lora_names import LoraTarget, lora_layers
from shared.models.loras import merged
from shared.weights.errors import WeightsError

IN, OUT, RANK = 6, 8, 2
PREFIXES = dict.fromkeys(("", "lora_unet", "unet", "diffusion_model", "transformer"), "unet")


class Net(nn.Module):
    """A linear layer with and one without bias, a convolution, a normalisation, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(IN, OUT)
        self.to_k = nn.Linear(IN, OUT, bias=False)
        self.conv = nn.Conv2d(IN, OUT, 3)
        self.norm = nn.LayerNorm(OUT)
        self.modulation = nn.Parameter(torch.randn(1, 6, OUT))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().requires_grad_(False)


def target(net: Net) -> LoraTarget:
    return LoraTarget("Net", lora_layers("unet", net), PREFIXES, {})


def read(net: Net, folder: Path, tensors: dict[str, Tensor], **header: Any) -> Lora:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "ink.safetensors", metadata=header or None)
    return read_lora(folder / "ink.safetensors", target(net))


def state(net: Net) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def changes(net: Net, lora: Lora, scale: float = 1.0) -> dict[str, Tensor]:
    """What a LoRA adds to each tensor that it changes. The network is as before afterwards, bit for bit."""
    before, bias = state(net), net.to_k.bias
    with merged(target(net), [(lora, scale)]):
        during = state(net)
    after = state(net)
    assert net.to_k.bias is bias
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    added = {name: tensor - before.get(name, torch.zeros_like(tensor)) for name, tensor in during.items()}
    return {name: tensor for name, tensor in added.items() if tensor.abs().max() > 0}


def assert_changes(net: Net, lora: Lora, expected: dict[str, Tensor], scale: float = 1.0) -> None:
    found = changes(net, lora, scale)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape)


SPELLINGS = {
    "kohya": ("lora_unet_to_q.lora_down.weight", "lora_unet_to_q.lora_up.weight"),
    "VideoX-Fun": ("lora_unet__to_q.lora_down.weight", "lora_unet__to_q.lora_up.weight"),
    "diffusers": ("unet.to_q.lora.down.weight", "unet.to_q.lora.up.weight"),
    "diffusers' text encoders": ("unet.to_q.lora_linear_layer.down.weight", "unet.to_q.lora_linear_layer.up.weight"),
    "diffusers' processors": ("unet.processor.to_q_lora.down.weight", "unet.processor.to_q_lora.up.weight"),
    "peft in diffusers": ("unet.to_q.lora_A.weight", "unet.to_q.lora_B.weight"),
    "peft": ("base_model.model.to_q.lora_A.weight", "base_model.model.to_q.lora_B.weight"),
    "peft with the adapter's name": ("base_model.model.to_q.lora_A.default.weight", "base_model.model.to_q.lora_B.default.weight"),
    "DiffSynth": ("to_q.lora_A.default.weight", "to_q.lora_B.default.weight"),
    "bare": ("to_q.lora_A.weight", "to_q.lora_B.weight"),
    "ComfyUI": ("diffusion_model.to_q.lora_down.weight", "diffusion_model.to_q.lora_up.weight"),
    "compiled": ("transformer._orig_mod.to_q.lora_A.weight", "transformer._orig_mod.to_q.lora_B.weight"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_changes_the_layer(net: Net, tmp_path: Path, spelling: str) -> None:
    down, up = rand(RANK, IN), rand(OUT, RANK)
    lora = read(net, tmp_path, dict(zip(SPELLINGS[spelling], (down, up), strict=True)))
    assert_changes(net, lora, {"to_q.weight": 0.5 * up @ down}, scale=0.5)


def test_alpha_divides_by_the_rank(net: Net, tmp_path: Path) -> None:
    down, up = rand(RANK, IN), rand(OUT, RANK)
    lora = read(net, tmp_path, {"to_q.lora_down.weight": down, "to_q.lora_up.weight": up, "to_q.alpha": torch.tensor(1.0)})
    assert_changes(net, lora, {"to_q.weight": up @ down / RANK})


def test_a_locon_with_a_middle_factor_changes_a_convolution(net: Net, tmp_path: Path) -> None:
    down, mid, up = rand(RANK, IN, 1, 1), rand(RANK, RANK, 3, 3), rand(OUT, RANK, 1, 1)
    lora = read(
        net, tmp_path, {f"lora_unet_conv.lora_{part}.weight": tensor for part, tensor in (("down", down), ("mid", mid), ("up", up))}
    )
    image = rand(1, IN, 5, 5)
    layered = nn.functional.conv2d(nn.functional.conv2d(nn.functional.conv2d(image, down), mid), up)
    torch.testing.assert_close(nn.functional.conv2d(image, changes(net, lora)["conv.weight"]), layered, atol=1e-4, rtol=1e-3)


def test_a_loha_multiplies_two_products(net: Net, tmp_path: Path) -> None:
    parts = {"hada_w1_a": rand(OUT, RANK), "hada_w1_b": rand(RANK, IN), "hada_w2_a": rand(OUT, RANK), "hada_w2_b": rand(RANK, IN)}
    lora = read(
        net, tmp_path, {f"lora_unet_to_k.{part}": tensor for part, tensor in parts.items()} | {"lora_unet_to_k.alpha": torch.tensor(1.0)}
    )
    expected = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"]) / RANK
    assert_changes(net, lora, {"to_k.weight": expected})


def test_a_loha_in_tucker_form_changes_a_convolution(net: Net, tmp_path: Path) -> None:
    parts = {f"hada_w{half}_{side}": rand(RANK, size) for half in (1, 2) for side, size in (("a", OUT), ("b", IN))}
    parts |= {f"hada_t{half}": rand(RANK, RANK, 3, 3) for half in (1, 2)}
    lora = read(net, tmp_path, {f"lora_unet_conv.{part}": tensor for part, tensor in parts.items()})
    halves = [
        torch.einsum("ijkl,jr,ip->prkl", parts[f"hada_t{half}"], parts[f"hada_w{half}_b"], parts[f"hada_w{half}_a"]) for half in (1, 2)
    ]
    assert_changes(net, lora, {"conv.weight": halves[0] * halves[1]})


def test_a_lokr_of_whole_factors_ignores_alpha(net: Net, tmp_path: Path) -> None:
    small, large = rand(2, 3), rand(OUT // 2, IN // 3)
    lora = read(net, tmp_path, {"to_q.lokr_w1": small, "to_q.lokr_w2": large, "to_q.alpha": torch.tensor(1e9)})
    assert_changes(net, lora, {"to_q.weight": torch.kron(small, large)})


def test_a_lokr_of_decomposed_factors_uses_alpha(net: Net, tmp_path: Path) -> None:
    parts = {"lokr_w1_a": rand(2, RANK), "lokr_w1_b": rand(RANK, 3), "lokr_w2_a": rand(OUT // 2, RANK), "lokr_w2_b": rand(RANK, IN // 3)}
    lora = read(net, tmp_path, {f"to_q.{part}": tensor for part, tensor in parts.items()} | {"to_q.alpha": torch.tensor(1.0)})
    expected = torch.kron(parts["lokr_w1_a"] @ parts["lokr_w1_b"], parts["lokr_w2_a"] @ parts["lokr_w2_b"]) / RANK
    assert_changes(net, lora, {"to_q.weight": expected})


def test_a_lokr_changes_a_convolution_whole_and_in_tucker_form(net: Net, tmp_path: Path) -> None:
    small, core, output, inner = rand(2, 3), rand(RANK, RANK, 3, 3), rand(RANK, OUT // 2), rand(RANK, IN // 3)
    large = torch.einsum("ijkl,ip,jr->prkl", core, output, inner).contiguous()
    expected = torch.kron(small[:, :, None, None], large)
    whole = read(net, tmp_path, {"conv.lokr_w1": small, "conv.lokr_w2": large})
    assert_changes(net, whole, {"conv.weight": expected})
    tucker = {"conv.lokr_w1": small, "conv.lokr_t2": core, "conv.lokr_w2_a": output, "conv.lokr_w2_b": inner}
    assert_changes(net, read(net, tmp_path, tucker), {"conv.weight": expected})


def test_full_differences_change_weights_biases_norms_and_parameters(net: Net, tmp_path: Path) -> None:
    weight, bias, norm, shift, modulation = rand(OUT, IN), rand(OUT), rand(OUT), rand(OUT), rand(1, 6, OUT)
    tensors = {"to_q.diff": weight, "to_q.diff_b": bias, "norm.w_norm": norm, "norm.b_norm": shift, "modulation.diff": modulation}
    expected = {"to_q.weight": weight, "to_q.bias": bias, "norm.weight": norm, "norm.bias": shift, "modulation": modulation}
    assert_changes(net, read(net, tmp_path, tensors), {name: -0.5 * tensor for name, tensor in expected.items()}, scale=-0.5)
    named = {"norm.diff": norm, "norm.diff_b": shift}
    assert_changes(net, read(net, tmp_path, named), {"norm.weight": norm, "norm.bias": shift})


def test_a_layer_without_a_bias_gets_one_for_the_job(net: Net, tmp_path: Path) -> None:
    down, up, bias = rand(RANK, IN), rand(OUT, RANK), rand(OUT)
    lora = read(net, tmp_path, {"to_k.lora_down.weight": down, "to_k.lora_up.weight": up, "to_k.diff_b": bias})
    assert_changes(net, lora, {"to_k.weight": up @ down, "to_k.bias": bias})


def test_the_bias_of_pefts_up_factor_is_scaled_like_the_factor(net: Net, tmp_path: Path) -> None:
    down, up, bias = rand(RANK, IN), rand(OUT, RANK), rand(OUT)
    tensors = {"unet.to_q.lora_A.weight": down, "unet.to_q.lora_B.weight": up, "unet.to_q.lora_B.bias": bias}
    lora = read(net, tmp_path, tensors, lora_adapter_metadata='{"unet.lora_alpha": 6}')
    assert_changes(net, lora, {"to_q.weight": 3 * up @ down, "to_q.bias": 3 * bias})


@pytest.mark.parametrize(
    ("spelling", "shape", "axis"),
    [("dora_scale", (1, IN), 0), ("dora_scale", (OUT, 1), 1), ("dora_scale", (OUT,), 1), ("lora_magnitude_vector", (OUT,), 1)],
)
def test_a_dora_sets_the_magnitude_of_each_channel(net: Net, tmp_path: Path, spelling: str, shape: tuple[int, ...], axis: int) -> None:
    down, up, magnitude = rand(RANK, IN), rand(OUT, RANK), rand(*shape).abs() + 1
    lora = read(net, tmp_path, {"to_k.lora_down.weight": down, "to_k.lora_up.weight": up, f"to_k.{spelling}": magnitude})
    with merged(target(net), [(lora, 1.0)]):
        merged_weight = net.to_k.weight.clone()
    direction = net.to_k.weight + up @ down
    torch.testing.assert_close(merged_weight.norm(dim=axis), magnitude.flatten(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        merged_weight / merged_weight.norm(dim=axis, keepdim=True), direction / direction.norm(dim=axis, keepdim=True)
    )
    assert_changes(net, lora, {"to_k.weight": 0.3 * (merged_weight - net.to_k.weight)}, scale=0.3)


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr", "DoRA", "lora_bias"])
def test_a_file_that_peft_wrote_changes_the_network_as_peft_does(net: Net, tmp_path: Path, kind: str) -> None:
    base: dict[str, Any] = {"target_modules": ["to_q", "conv"], "r": RANK, "init_weights": False}
    kinds: Any = peft
    config: Any = {
        "LoRA": lambda: kinds.LoraConfig(r=RANK, lora_alpha=3, target_modules=["to_q", "conv"], init_lora_weights=False),
        "DoRA": lambda: kinds.LoraConfig(r=RANK, lora_alpha=3, target_modules=["to_q"], init_lora_weights=False, use_dora=True),
        "lora_bias": lambda: kinds.LoraConfig(r=RANK, lora_alpha=3, target_modules=["to_q"], init_lora_weights=False, lora_bias=True),
        "LoHa": lambda: kinds.LoHaConfig(**base, alpha=3, use_effective_conv2d=True),
        "LoKr": lambda: kinds.LoKrConfig(**base, alpha=3, use_effective_conv2d=True),
    }[kind]()
    before = state(net)
    theirs: Any = peft.get_peft_model(copy.deepcopy(net), config)
    adapter = {name: tensor for name, tensor in theirs.state_dict().items() if ".default" in name}
    theirs.load_state_dict({name: torch.randn_like(tensor) for name, tensor in adapter.items()}, strict=False)
    theirs.save_pretrained(tmp_path)
    header = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 3, "unet.alpha": 3, "unet.r": RANK})}
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    lora = read(net, tmp_path, tensors, **header)
    merged_state = theirs.merge_and_unload().state_dict()
    expected = {name: merged_state[name] - before[name] for name in before if (merged_state[name] - before[name]).abs().max() > 0}
    assert_changes(net, lora, expected)


def test_the_size_of_a_lora_counts_every_tensor(net: Net, tmp_path: Path) -> None:
    tensors = {"to_q.diff": rand(OUT, IN), "to_q.diff_b": rand(OUT)}
    assert lora_size(read(net, tmp_path, tensors)) == sum(tensor.nbytes for tensor in tensors.values())


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
