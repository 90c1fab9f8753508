"""LoRA files: naming schemes, and files that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from handlers.sdxl.features.lora import lora_target
from handlers.sdxl.weights.load import load_sdxl
from shared.models.lora_files import lora_size, read_lora
from shared.models.loras import merged
from shared.weights.errors import WeightsError
from tests.handlers.sdxl.files import NAMING_SCHEMES, write_lora


@pytest.fixture(scope="module")
def pipeline(tiny_models: Path) -> Any:
    return load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)


def test_every_naming_scheme_yields_the_same_lora(pipeline: Any, tmp_path: Path) -> None:
    read = []
    for index, naming in enumerate(NAMING_SCHEMES):
        path = tmp_path / f"{index}.safetensors"
        write_lora(path, pipeline, naming)
        read.append(read_lora(path, lora_target(pipeline)))
    assert {component for component, _ in read[0].updates} == {"unet", "text_encoder", "text_encoder_2"}
    for lora in read[1:]:
        assert lora.updates.keys() == read[0].updates.keys()
        assert all(torch.equal(update.factors["up"], read[0].updates[layer].factors["up"]) for layer, update in lora.updates.items())
        assert {update.scaling for update in lora.updates.values()} == {1.0}


def test_the_adapter_metadata_of_peft_determines_alpha(pipeline: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "peft")
    note = '{"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"to_q": 2}, "text_encoder.use_rslora": true}'
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", metadata={"lora_adapter_metadata": note})
    lora = read_lora(tmp_path / "b.safetensors", lora_target(pipeline))
    scalings = {(layer[0], layer[1].endswith("to_q")): update.scaling for layer, update in lora.updates.items()}
    assert scalings == {
        ("unet", True): 0.5,
        ("unet", False): 2.0,
        ("text_encoder", False): 2.0,
        ("text_encoder_2", False): 1.0,
    }


def no_lora(tensors: dict[str, Tensor]) -> None:
    tensors.clear()
    tensors["encoder.weight"] = torch.zeros(2)


def wrong_shape(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("lora_down.weight"))
    tensors[name] = tensors[name][:, :-1].contiguous()


def factor_missing(tensors: dict[str, Tensor]) -> None:
    del tensors[next(name for name in tensors if name.endswith("lora_up.weight"))]


def foreign_layer(tensors: dict[str, Tensor]) -> None:
    tensors["lora_unet_single_blocks_3_linear1.lora_down.weight"] = torch.zeros(4, 4)


def magnitudes_of_another_model(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if name.endswith(".alpha"))
    tensors[name.replace(".alpha", ".dora_scale")] = torch.ones(4)


def not_finite(tensors: dict[str, Tensor]) -> None:
    tensors[next(name for name in tensors if name.endswith("lora_up.weight"))][0] = torch.nan


def empty(tensors: dict[str, Tensor]) -> None:
    tensors.clear()


def no_matrix(tensors: dict[str, Tensor]) -> None:
    tensors[next(name for name in tensors if name.endswith("lora_up.weight"))] = torch.zeros(4)


def without_a_rank(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("lora_unet") and not name.endswith(".alpha")]:
        tensors[name] = (tensors[name][:0] if "down" in name else tensors[name][:, :0]).contiguous()


def infinite_scaling(tensors: dict[str, Tensor]) -> None:
    tensors[next(name for name in tensors if name.endswith(".alpha"))] = torch.tensor(torch.inf)


def several_scalings(tensors: dict[str, Tensor]) -> None:
    tensors[next(name for name in tensors if name.endswith(".alpha"))] = torch.ones(2)


@pytest.mark.parametrize(
    "spoil",
    [
        no_lora,
        wrong_shape,
        factor_missing,
        foreign_layer,
        magnitudes_of_another_model,
        not_finite,
        empty,
        no_matrix,
        without_a_rank,
        infinite_scaling,
        several_scalings,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_file_that_is_not_a_lora_for_sdxl_is_refused(pipeline: Any, tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None]) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "kohya")
    tensors = load_file(tmp_path / "a.safetensors")
    spoil(tensors)
    save_file(tensors, tmp_path / "ink.safetensors")
    with pytest.raises(WeightsError, match=r"^The weights of loras/ink cannot be used: "):
        read_lora(tmp_path / "ink.safetensors", lora_target(pipeline))


@pytest.mark.parametrize(
    "note",
    ["[]", "{", '{"unet.lora_alpha": "much"}', '{"unet.alpha_pattern": [1]}', '{"unet.lora_alpha": 1e999}'],
)
def test_invalid_adapter_metadata_is_refused(pipeline: Any, tmp_path: Path, note: str) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "peft")
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "ink.safetensors", metadata={"lora_adapter_metadata": note})
    with pytest.raises(WeightsError, match=r"^The weights of loras/ink cannot be used: "):
        read_lora(tmp_path / "ink.safetensors", lora_target(pipeline))


def test_loras_in_eight_bits_are_supported(pipeline: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "peft")
    eight = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(tmp_path / "a.safetensors").items()}
    save_file(eight, tmp_path / "b.safetensors")
    full, rounded = (read_lora(tmp_path / f"{name}.safetensors", lora_target(pipeline)) for name in "ab")
    address = next(iter(full.updates))
    layer, (up, exact) = lora_target(pipeline).layers[address], (lora.updates[address].factors["up"] for lora in (rounded, full))
    torch.testing.assert_close(up.float(), exact, rtol=0.07, atol=0.01)
    with merged(lora_target(pipeline), [(rounded, 1.0)]):
        assert layer.weight.isfinite().all()


def test_a_damaged_lora_is_refused(pipeline: Any, tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").write_bytes(b"\x08" * 99)
    with pytest.raises(WeightsError, match="it is damaged"):
        read_lora(tmp_path / "ink.safetensors", lora_target(pipeline))


def test_the_size_of_a_lora_is_the_sum_of_its_factors(pipeline: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "peft")
    assert lora_size(read_lora(tmp_path / "a.safetensors", lora_target(pipeline))) == sum(
        tensor.nbytes for tensor in load_file(tmp_path / "a.safetensors").values()
    )


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "text_encoder"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "text_encoder"),
        ("text_encoder.encoder.layers.0.mlp.fc1", "text_encoder"),
        ("text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1", "text_encoder"),
        ("conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1", "text_encoder"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "text_encoder_2"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", "text_encoder_2"),
        ("text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1", "text_encoder_2"),
        ("lora_te2_text_projection", "text_encoder_2"),
        ("lora_unet_input_blocks_1_0_in_layers_2", "unet"),
        ("lora_unet_down_blocks_0_resnets_0_conv1", "unet"),
        ("lycoris_down_blocks_0_resnets_0_conv1", "unet"),
        ("diffusion_model.input_blocks.1.0.in_layers.2", "unet"),
        ("model.diffusion_model.out.2", "unet"),
        ("unet.base_model.model.down_blocks.0.resnets.0.conv1", "unet"),
        ("down_blocks.0.resnets.0.norm1", "unet"),
        ("lora_unet_time_embed_0", "unet"),
        ("lora_unet_label_emb_0_0", "unet"),
    ],
)
def test_layers_have_the_names_of_every_trainer(pipeline: Any, name: str, component: str) -> None:
    found = lora_target(pipeline).find(name)
    assert found is not None
    assert found[0] == component


def test_a_lora_for_sd_1_5_is_refused_as_such(pipeline: Any, tmp_path: Path) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file(
        {f"{layer}.lora_down.weight": torch.zeros(4, 768), f"{layer}.lora_up.weight": torch.zeros(320, 4)}, tmp_path / "ink.safetensors"
    )
    with pytest.raises(WeightsError, match=r"it is a LoRA for SD 1\.5, and this worker's model is SDXL"):
        read_lora(tmp_path / "ink.safetensors", lora_target(pipeline))


def test_a_pattern_of_pefts_configuration_selects_the_layers_that_it_selects_in_peft(pipeline: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "peft")
    note = '{"unet.r": 4, "unet.lora_alpha": 4, "unet.alpha_pattern": {".*attn[12].to_(q|k|v)": 16}}'
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", metadata={"lora_adapter_metadata": note})
    lora = read_lora(tmp_path / "b.safetensors", lora_target(pipeline))
    strong = {layer for layer, update in lora.updates.items() if update.scaling == 4}
    assert strong == {layer for layer in lora.updates if layer[0] == "unet" and layer[1].endswith(("to_q", "to_k", "to_v"))}
