from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, WanVACETransformer3DModel
from safetensors.torch import load_file, save_file
from structlog.testing import capture_logs
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPTextModel, CLIPTokenizer, UMT5EncoderModel

from shared.models.load import check_network, load_network
from shared.models.tokenizers import load_tokenizer
from shared.weights.errors import WeightsError

Tensors = dict[str, torch.Tensor]

NETWORKS = {
    "sdxl/unet": UNet2DConditionModel,
    "sdxl/text_encoder": CLIPTextModel,
    "wan/transformer": WanVACETransformer3DModel,
    "qwen_base": AutoModelForCausalLM,
}
every_network = pytest.mark.parametrize("part", NETWORKS)


@pytest.fixture
def copy(tiny_models: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a component of the small models, so that it can be damaged."""
    return lambda part: Path(shutil.copytree(tiny_models / part, tmp_path / part))


def load(part: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_network(NETWORKS[part], folder, name=part, device=torch.device("cpu"), dtype=dtype)


def first_weights(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[0]


def edit(folder: Path, change: Callable[[Tensors], object]) -> None:
    """Edits the tensors of the first weight file."""
    path = first_weights(folder)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def some_name(tensors: Tensors) -> str:
    """Returns the name of a tensor."""
    return next(name for name in sorted(tensors) if name.endswith("weight"))


@every_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_network_is_complete_frozen_and_of_the_requested_precision(tiny_models: Path, part: str, dtype: torch.dtype) -> None:
    network = load(part, tiny_models / part, dtype)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.is_meta for parameter in network.parameters())
    assert network.dtype == dtype


def test_layers_that_need_float32_keep_it(tiny_models: Path) -> None:
    network = load("wan/transformer", tiny_models / "wan" / "transformer", torch.bfloat16)
    kept = {name for name, parameter in network.named_parameters() if parameter.dtype == torch.float32}
    assert "scale_shift_table" in kept
    assert "blocks.0.attn1.to_q.weight" not in kept


@every_network
def test_the_values_equal_those_of_the_file(tiny_models: Path, part: str) -> None:
    folder = tiny_models / part
    network = load(part, folder)
    tensors = load_file(first_weights(folder))
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in tensors.items())


def test_legacy_tensor_names_are_accepted(copy: Callable[[str], Path], tiny_models: Path) -> None:
    folder = copy("sdxl/text_encoder")

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[f"text_model.{name}"] = tensors.pop(name)
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    edit(folder, rename)
    old, new = load("sdxl/text_encoder", folder), load("sdxl/text_encoder", tiny_models / "sdxl" / "text_encoder")
    assert all(torch.equal(tensor, new.state_dict()[name]) for name, tensor in old.state_dict().items())


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_both_names_of_the_umt5_embeddings_are_accepted(copy: Callable[[str], Path], name: str) -> None:
    folder = copy("wan/text_encoder")
    edit(folder, lambda tensors: tensors.update({name: tensors.pop("shared.weight")}))
    encoder = load_network(UMT5EncoderModel, folder, name="encoder", device=torch.device("cpu"), dtype=torch.float32)
    assert torch.equal(encoder.shared.weight, load_file(first_weights(folder))[name])
    assert torch.equal(encoder.encoder.embed_tokens.weight, encoder.shared.weight)


@every_network
def test_a_missing_tensor_is_an_error_and_never_initialised_at_random(copy: Callable[[str], Path], part: str) -> None:
    folder = copy(part)
    edit(folder, lambda tensors: tensors.pop(some_name(tensors)))
    with pytest.raises(WeightsError, match=f"The weights of {part} cannot be used: .*are missing.*Copy the weights again"):
        load(part, folder)


@every_network
def test_a_tensor_of_another_shape_is_an_error(copy: Callable[[str], Path], part: str) -> None:
    folder = copy(part)
    edit(folder, lambda tensors: tensors.update({some_name(tensors): torch.zeros(7, 3)}))
    with pytest.raises(WeightsError, match=f"The weights of {part} cannot be used"):
        load(part, folder)


@every_network
def test_a_truncated_file_is_an_error(copy: Callable[[str], Path], part: str) -> None:
    folder = copy(part)
    weights = first_weights(folder)
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(WeightsError, match=f"The weights of {part} cannot be used"):
        load(part, folder)


@every_network
@pytest.mark.parametrize("content", ["", "{", "version https://git-lfs.github.com/spec/v1"])
def test_a_damaged_config_is_an_error(copy: Callable[[str], Path], part: str, content: str) -> None:
    folder = copy(part)
    (folder / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(WeightsError, match=f"The weights of {part} cannot be used"):
        load(part, folder)


@every_network
def test_pickles_are_not_read(copy: Callable[[str], Path], part: str) -> None:
    folder = copy(part)
    name = "pytorch_model.bin" if part == "qwen_base" or "text" in part else "diffusion_pytorch_model.bin"
    tensors = {key: value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()}
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save(tensors, folder / name)
    with pytest.raises(WeightsError, match=f"The weights of {part} cannot be used"):
        load(part, folder)


def test_out_of_memory_is_not_mistaken_for_damaged_weights(tiny_models: Path) -> None:
    class TooLarge:
        @classmethod
        def from_pretrained(cls, *_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        load_network(TooLarge, tiny_models / "sdxl" / "unet", name="unet", device=torch.device("cpu"), dtype=torch.float32)


def test_an_unsupported_precision_is_not_mistaken_for_missing_tensors(tiny_models: Path) -> None:
    class InEightBits:
        @classmethod
        def from_pretrained(cls, *_: object, **__: object) -> torch.Tensor:
            return torch.ones(2, dtype=torch.float8_e4m3fn).sum()

    with pytest.raises(WeightsError, match="cannot be used: \"sum_cpu\" not implemented for 'Float8_e4m3fn'"):
        load_network(InEightBits, tiny_models / "sdxl" / "unet", name="unet", device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize(
    ("dtype", "files", "read"),
    [
        (torch.float16, {"full", "half"}, "half"),
        (torch.float32, {"full", "half"}, "full"),
        (torch.float16, {"full"}, "full"),
        (torch.float32, {"half"}, "half"),
    ],
)
def test_the_files_closest_to_the_requested_precision_are_read(
    copy: Callable[[str], Path], dtype: torch.dtype, files: set[str], read: str
) -> None:
    folder = copy("sdxl/vae")
    full = first_weights(folder)
    marked = {key: torch.full_like(tensor, 2.0, dtype=torch.float16) for key, tensor in load_file(full).items()}
    if "half" in files:
        save_file(marked, folder / "diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    if "full" not in files:
        full.unlink()
    vae = load_network(AutoencoderKL, folder, name="vae", device=torch.device("cpu"), dtype=dtype)
    assert vae.dtype == dtype
    assert bool((vae.decoder.conv_in.weight == 2.0).all()) == (read == "half")


def test_one_log_line_per_network_has_size_duration_and_throughput_and_no_path(tiny_models: Path) -> None:
    with capture_logs() as lines:
        load("sdxl/unet", tiny_models / "sdxl" / "unet")
    [line] = lines
    assert (line["event"], line["component"], line["unused_tensors"]) == ("loaded", "sdxl/unet", 0)
    assert line["bytes"] == first_weights(tiny_models / "sdxl" / "unet").stat().st_size
    assert line["gb_per_s"] == pytest.approx(line["bytes"] / line["seconds"] / 1e9, rel=0.05, abs=0.001)
    assert str(tiny_models) not in str(line)


def test_a_network_with_meta_tensors_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"2 tensors are on the meta device \(weight, bias\)"):
        check_network(torch.nn.Linear(2, 2, device="meta"), name="layer", dtype=torch.float32)


def test_a_network_of_another_precision_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"2 tensors are not in torch.float16 \(weight, bias\)"):
        check_network(torch.nn.Linear(2, 2), name="layer", dtype=torch.float16)


def load_clip(folder: Path, rows: int = 693) -> Any:
    return load_tokenizer(CLIPTokenizer, folder, name="tokenizer", vocabulary_size=rows, required_tokens=("bos", "eos", "pad"))


@pytest.mark.parametrize("gone", [["vocab.json"], ["merges.txt"], ["vocab.json", "merges.txt"]], ids=str)
def test_a_tokenizer_without_its_files_is_refused_and_never_empty(copy: Callable[[str], Path], gone: list[str]) -> None:
    folder = copy("sdxl/tokenizer")
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(WeightsError, match="The weights of tokenizer cannot be used"):
        load_clip(folder)


def test_a_chat_tokenizer_without_its_files_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("qwen_base")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    with pytest.raises(WeightsError, match=r"it has \d tokens, but its model has 480"):
        load_tokenizer(AutoTokenizer, folder, name="tokenizer", vocabulary_size=480, required_tokens=("eos",))


@pytest.mark.parametrize("rows", [692, 800])
def test_a_tokenizer_of_another_model_is_refused(tiny_models: Path, rows: int) -> None:
    with pytest.raises(WeightsError, match=f"it has 693 tokens, but its model has {rows}"):
        load_clip(tiny_models / "sdxl" / "tokenizer", rows)


def test_a_tokenizer_without_a_required_special_token_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("qwen_base")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None}), encoding="utf-8")
    with pytest.raises(WeightsError, match="it has no eos token"):
        load_tokenizer(AutoTokenizer, folder, name="tokenizer", vocabulary_size=480, required_tokens=("eos",))
