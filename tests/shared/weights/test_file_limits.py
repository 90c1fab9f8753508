"""What is parsed of weights has limits, which are looked at before a parser is."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from shared.errors import ModelUnavailable
from shared.models.lora_files import read_lora
from shared.models.lora_names import LoraTarget
from shared.weights.addons import AddonLibrary
from shared.weights.errors import WeightsError
from shared.weights.file_limits import limit_problem
from shared.weights.verify import verify
from tests.budgets import within_budget


def write_header(path: Path, header: bytes, tensors: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + tensors)
    return path


def metadata(text: str) -> bytes:
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    return json.dumps({"__metadata__": {"lora_adapter_metadata": text}, "a.lora_down.weight": tensor}).encode()


HEADERS = {
    "of 90 MB": b'{"__metadata__": {"a": "' + b"x" * 90_000_000 + b'"}}',
    "of 90 MB of tensors": b"{" + b'"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, ' * 1_500_000 + b"}",
    "of 5 MB": metadata("x" * 5_000_000),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_that_is_too_long_is_refused_without_parsing_it(tmp_path: Path, header: bytes) -> None:
    path = write_header(tmp_path / "loras/a.safetensors", header)
    with within_budget(0.5, 10**7):
        with pytest.raises(WeightsError, match="header of more than 4 MiB"):
            verify("sdxl", path)
        with pytest.raises(ModelUnavailable, match="header of more than 4 MiB"):
            AddonLibrary(tmp_path).load("loras", "a", lambda path: read_lora(path, no_model()), lambda lora: 0)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000], ids=["lists", "objects"])
def test_adapter_metadata_that_is_nested_deeply_is_damaged(tmp_path: Path, text: str) -> None:
    path = write_header(tmp_path / "loras/a.safetensors", metadata(text), bytes(4))
    with within_budget(), pytest.raises(WeightsError, match="damaged"):
        read_lora(path, no_model())


def test_a_configuration_that_is_nested_deeply_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "vaes/a").mkdir(parents=True)
    (tmp_path / "vaes/a/config.json").write_text("[" * 100_000)
    with pytest.raises(ModelUnavailable, match="nested too deeply"):
        AddonLibrary(tmp_path).load("vaes", "a", lambda path: json.loads((path / "config.json").read_text()), lambda vae: 0)


def test_a_configuration_that_is_too_long_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "vaes/a").mkdir(parents=True)
    with (tmp_path / "vaes/a/config.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelUnavailable, match=r"config\.json has more than 16 MiB"):
        AddonLibrary(tmp_path).load("vaes", "a", lambda path: path.read_bytes(), lambda vae: 0)


@pytest.mark.parametrize(("count", "reason"), [(20_000, "does not belong"), (45_000, "45,000 tensors, and at most 20,000 are read")])
def test_the_longest_header_is_read_within_the_budget_of_an_input(tmp_path: Path, count: int, reason: str) -> None:
    tensor = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header: dict[str, object] = {f"layer.{number}.lora_down.weight": tensor for number in range(count)}
    header["__metadata__"] = {"a": "x" * (4 * 2**20 - len(json.dumps(header)) - 1000)}
    path = write_header(tmp_path / "a.safetensors", json.dumps(header).encode())
    assert path.stat().st_size > 4_000_000
    assert limit_problem(path) is None
    with within_budget(), pytest.raises(WeightsError, match=reason):
        read_lora(path, no_model())


def no_model() -> LoraTarget:
    return LoraTarget("a model", {}, {}, {})
