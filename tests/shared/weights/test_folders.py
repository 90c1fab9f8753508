from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shared.weights.folders import missing_files, weight_files


@pytest.fixture
def sdxl(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models / "sdxl", tmp_path / "sdxl"))


@pytest.fixture
def qwen(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models / "qwen_instruct", tmp_path / "qwen"))


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    assert missing_files(tmp_path / "nothing", "diffusers") == ["no such folder"]
    assert missing_files(tmp_path / "nothing", "transformers") == ["no such folder"]


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer_2/merges.txt",
        "tokenizer_2/tokenizer_config.json",
    ],
)
def test_a_pipeline_is_incomplete_without(sdxl: Path, name: str) -> None:
    (sdxl / name).unlink()
    assert missing_files(sdxl, "diffusers") == [name]


def test_a_pipeline_is_incomplete_without_the_weights_of_a_component(sdxl: Path) -> None:
    (sdxl / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert missing_files(sdxl, "diffusers") == ["vae/*.safetensors"]


def test_weights_in_other_formats_do_not_count(sdxl: Path) -> None:
    weights = sdxl / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert missing_files(sdxl, "diffusers") == ["vae/*.safetensors"]


def test_a_pipeline_is_incomplete_without_a_component(sdxl: Path) -> None:
    shutil.rmtree(sdxl / "text_encoder_2")
    assert missing_files(sdxl, "diffusers") == ["text_encoder_2/config.json", "text_encoder_2/*.safetensors"]


def test_a_component_disabled_in_the_index_is_not_required(sdxl: Path) -> None:
    index = json.loads((sdxl / "model_index.json").read_text(encoding="utf-8"))
    index |= {"image_encoder": [None, None], "feature_extractor": [None, None]}
    (sdxl / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    assert missing_files(sdxl, "diffusers") == []


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_an_empty_pipeline_index_counts_as_missing(sdxl: Path, content: str) -> None:
    (sdxl / "model_index.json").write_text(content, encoding="utf-8")
    assert missing_files(sdxl, "diffusers") == ["model_index.json"]


def test_every_shard_in_the_index_is_required(qwen: Path) -> None:
    (qwen / "model-00002-of-00002.safetensors").unlink()
    assert missing_files(qwen, "transformers") == ["model-00002-of-00002.safetensors"]


def test_an_empty_shard_index_counts_as_missing(qwen: Path) -> None:
    (qwen / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    assert missing_files(qwen, "transformers") == ["model.safetensors.index.json"]


def test_one_tokenizer_format_is_enough(qwen: Path) -> None:
    (qwen / "tokenizer.json").unlink()
    assert missing_files(qwen, "transformers") == []
    (qwen / "merges.txt").unlink()
    assert missing_files(qwen, "transformers") == ["merges.txt"]
    (qwen / "vocab.json").unlink()
    assert missing_files(qwen, "transformers") == ["tokenizer.json"]


def test_of_both_precisions_the_preferred_one_is_listed(tmp_path: Path) -> None:
    full, half = tmp_path / "model.safetensors", tmp_path / "model.fp16.safetensors"
    full.touch()
    half.touch()
    assert weight_files(tmp_path, half=True) == [half]
    assert weight_files(tmp_path, half=False) == [full]


def test_the_only_precision_is_listed(tmp_path: Path) -> None:
    shards = [tmp_path / f"model.fp16-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for shard in shards:
        shard.touch()
    assert weight_files(tmp_path, half=False) == shards
