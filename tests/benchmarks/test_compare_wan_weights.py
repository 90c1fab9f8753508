"""Whether VACE's part for text is the text-to-video model is found out tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.compare_wan_weights import main
from handlers.wan.weights.load import load_wan


@pytest.fixture
def text(tiny_models: Path, tmp_path: Path) -> Path:
    """The small VACE's part for text, as a folder of its own and in half precision."""
    transformer = load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32).text.transformer
    transformer.to(torch.bfloat16).save_pretrained(tmp_path / "transformer")
    return tmp_path


def test_equal_weights_are_found_equal_in_any_precision(tiny_models: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_models / "wan"), str(text)]) == 0
    assert "tensors are equal." in capsys.readouterr().out


def test_a_tensor_that_differs_is_named(tiny_models: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import WanTransformer3DModel

    other = WanTransformer3DModel.from_pretrained(text / "transformer")
    other.blocks[1].ffn.net[2].bias.data += 1
    other.save_pretrained(text / "transformer")
    assert main([str(tiny_models / "wan"), str(text)]) == 1
    assert "blocks.1.ffn.net.2.bias  differs by up to 1" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused(tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tiny_models / "wan"), str(tmp_path)])
    assert "has no weights" in capsys.readouterr().err
