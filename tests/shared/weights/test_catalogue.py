from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from shared.settings import Settings
from shared.weights.catalogue import CATALOGUE, QWEN_BASE, QWEN_INSTRUCT, SDXL, WAN, Weights

every_entry = pytest.mark.parametrize("weights", CATALOGUE, ids=lambda weights: weights.name)


@every_entry
def test_every_entry_has_a_repository_a_licence_and_a_size(weights: Weights) -> None:
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", weights.repo)
    assert weights.licence in {"Apache-2.0", "CreativeML Open RAIL++-M"}
    assert 5e9 < weights.size < 25e9


@every_entry
def test_a_revision_is_a_full_commit_or_none(weights: Weights) -> None:
    assert weights.revision is None or re.fullmatch(r"[0-9a-f]{40}", weights.revision)


@every_entry
def test_the_variable_of_every_entry_is_a_setting(weights: Weights) -> None:
    assert weights.variable.lower() in Settings.model_fields


def test_names_are_unique() -> None:
    assert len({weights.name for weights in CATALOGUE}) == len(CATALOGUE)


def test_the_three_handlers_have_their_weights() -> None:
    assert {weights.used_by: weights.name for weights in (SDXL, WAN)} == {"sdxl": "sdxl", "wan": "wan"}
    assert QWEN_INSTRUCT.used_by == QWEN_BASE.used_by == "chat"


@pytest.mark.parametrize("weights", [WAN, QWEN_INSTRUCT, QWEN_BASE], ids=lambda weights: weights.name)
def test_the_patterns_fetch_every_file_of_a_complete_folder(tiny_models: Path, weights: Weights) -> None:
    folder = tiny_models / weights.name
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != "made.json"]
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in weights.patterns)] == []


@pytest.mark.parametrize(
    ("name", "fetched"),
    [
        ("unet/diffusion_pytorch_model.fp16.safetensors", True),
        ("text_encoder_2/model.fp16.safetensors", True),
        ("tokenizer_2/merges.txt", True),
        ("unet/diffusion_pytorch_model.safetensors", False),
        ("unet/openvino_model.bin", False),
        ("sd_xl_base_1.0.safetensors", False),
    ],
)
def test_only_half_precision_files_of_sdxl_are_fetched(name: str, fetched: bool) -> None:
    assert any(fnmatch(name, pattern) for pattern in SDXL.patterns) == fetched


def test_resolving_weights_imports_no_torch() -> None:
    code = (
        "import sys, shared.weights.resolve; sys.exit(bool({'torch', 'transformers', 'diffusers', 'huggingface_hub'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], timeout=60, check=True)
