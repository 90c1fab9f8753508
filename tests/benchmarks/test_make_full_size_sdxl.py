"""The full-size random SDXL checkpoint has the published tensors, loads like a real one, and is generated in little memory."""

from __future__ import annotations

import math
import shutil
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks.make_full_size_sdxl import full_size_shapes, write_random
from benchmarks.sdxl_loading import measure
from builder.weights.make_single_file import make_single_file
from handlers.sdxl.weights.load import load_sdxl


def test_its_parameter_counts_are_those_of_the_published_model() -> None:
    shapes = full_size_shapes()
    assert sum(math.prod(shape) for shape in shapes.values()) == 2_567_463_684 + 83_653_863 + 123_060_480 + 694_659_840
    assert shapes["model.diffusion_model.input_blocks.0.0.weight"] == (320, 4, 3, 3)
    assert shapes["conditioner.embedders.1.model.text_projection"] == (1280, 1280)


def test_its_names_and_shapes_equal_those_of_a_converted_folder(tiny_models: Path, tmp_path: Path) -> None:
    make_single_file(tiny_models / "sdxl", tmp_path / "real.safetensors")
    with safe_open(tmp_path / "real.safetensors", "pt") as opened:
        expected = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - not a dict
    assert full_size_shapes(tiny_models / "sdxl") == expected


def test_it_loads_like_a_real_checkpoint_and_its_weights_are_finite(tiny_models: Path, tmp_path: Path) -> None:
    file = tmp_path / "random.safetensors"
    with file.open("wb") as out:
        write_random(out, full_size_shapes(tiny_models / "sdxl"))
    shutil.copytree(tiny_models / "sdxl", file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    pipeline = load_sdxl(file, torch.device("cpu"), torch.float16)
    assert pipeline.unet.dtype == torch.float16
    tensors = load_file(file)
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float16 for tensor in tensors.values())
    assert 0.015 < torch.cat([tensor.flatten() for tensor in tensors.values()]).float().std() < 0.025


def test_generation_keeps_one_block_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    with (tmp_path / "large").open("wb") as out:
        write_random(out, {f"{index}": (10_000, 1_000) for index in range(10)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "large").stat().st_size > 200_000_000
    assert peak < 150_000_000


@pytest.mark.slow
def test_sdxl_loading_compares_the_loader_with_a_plain_read(tiny_models: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    make_single_file(tiny_models / "sdxl", file)
    shutil.copytree(tiny_models / "sdxl", file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    read, load = (measure(file, mode, cold=False) for mode in ("read", "load"))
    assert 0 < read.seconds <= read.copied
    assert 0 < load.seconds <= load.copied
    assert load.peak > read.peak > 0
