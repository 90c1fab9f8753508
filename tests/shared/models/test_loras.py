"""LoRAs of every kind and spelling, on a small network: what they change, and that it is undone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.testing import CompileCounter

from shared.models.lora_files import lora_size
from shared.models.loras import merged
from tests.shared.models.lora_net import IN, OUT, RANK, Net, assert_changes, changes, rand, read, state, target

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


def test_a_lora_that_is_merged_during_a_job_does_not_recompile_the_network(net: Net, tmp_path: Path) -> None:
    """Its tensors have the dispatch keys of loaded weights, although jobs run in inference mode."""
    lora, graphs = read(net, tmp_path, {"to_q.lora_A.weight": rand(RANK, IN), "to_q.lora_B.weight": rand(OUT, RANK)}), CompileCounter()
    compiled = torch.compile(lambda values: net.to_q(values), backend=graphs)
    with torch.inference_mode():
        values = rand(3, IN)
        plain = compiled(values)
        with merged(target(net), [(lora, 1.0)]):
            assert not torch.equal(compiled(values), plain)
        assert torch.equal(compiled(values), plain)
    assert graphs.frame_count == 1
