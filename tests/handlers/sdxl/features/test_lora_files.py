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
    assert {component for component, _ in read[0]} == {"unet", "text_encoder", "text_encoder_2"}
    for lora in read[1:]:
        assert lora.keys() == read[0].keys()
        assert all(torch.equal(lora[layer].up, read[0][layer].up) and lora[layer].scaling == 1 for layer in lora)


def test_the_adapter_metadata_of_peft_determines_alpha(pipeline: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "peft")
    note = '{"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"to_q": 2}, "text_encoder.use_rslora": true}'
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", metadata={"lora_adapter_metadata": note})
    lora = read_lora(tmp_path / "b.safetensors", lora_target(pipeline))
    scalings = {(layer[0], layer[1].endswith("to_q")): factors.scaling for layer, factors in lora.items()}
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


def dora(tensors: dict[str, Tensor]) -> None:
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
        dora,
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
    layer = next(iter(full))
    module: Any = lora_target(pipeline).layers[layer][0]
    torch.testing.assert_close(rounded[layer].up.float(), full[layer].up, rtol=0.07, atol=0.01)
    with merged(lora_target(pipeline), [(rounded, 1.0)]):
        assert module.weight.isfinite().all()


def test_a_damaged_lora_is_refused(pipeline: Any, tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").write_bytes(b"\x08" * 99)
    with pytest.raises(WeightsError, match="it is damaged"):
        read_lora(tmp_path / "ink.safetensors", lora_target(pipeline))


def test_the_size_of_a_lora_is_the_sum_of_its_factors(pipeline: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "peft")
    assert lora_size(read_lora(tmp_path / "a.safetensors", lora_target(pipeline))) == sum(
        tensor.nbytes for tensor in load_file(tmp_path / "a.safetensors").values()
    )
