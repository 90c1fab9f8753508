"""The text-to-video weights inside a VACE checkpoint are compared with those of a text-to-video checkpoint, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.compare_wan_weights import main
from handlers.wan.weights.load import load_wan


@pytest.fixture
def text(tiny_models: Path, tmp_path: Path) -> Path:
    """The tiny VACE's text-to-video transformer as a separate folder, in half precision."""
    transformer = load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32).text_to_video.transformer
    transformer.to(torch.bfloat16).save_pretrained(tmp_path / "transformer")
    return tmp_path


def test_equal_weights_compare_equal_across_precisions(tiny_models: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_models / "wan"), str(text)]) == 0
    assert "tensors are equal." in capsys.readouterr().out


def test_a_tensor_that_differs_is_listed(tiny_models: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import WanTransformer3DModel

    other = WanTransformer3DModel.from_pretrained(text / "transformer")
    other.blocks[1].ffn.net[2].bias.data += 1
    other.save_pretrained(text / "transformer")
    assert main([str(tiny_models / "wan"), str(text)]) == 1
    assert "blocks.1.ffn.net.2.bias  differs by up to 1" in capsys.readouterr().out


def test_a_folder_without_weights_is_rejected(tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tiny_models / "wan"), str(tmp_path)])
    assert "contains no weights" in capsys.readouterr().err
