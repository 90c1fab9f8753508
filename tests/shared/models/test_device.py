from __future__ import annotations

import pytest
import torch

from shared.models.device import Family, choose_device, choose_dtype, vram_used_mb
from shared.settings import SettingsError

CPU = torch.device("cpu")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def test_cpu_selects_the_cpu() -> None:
    assert choose_device("cpu") == CPU


@without_gpu
def test_auto_selects_the_cpu_without_a_gpu() -> None:
    assert choose_device("auto") == CPU


@without_gpu
def test_a_required_gpu_that_is_missing_raises_an_error() -> None:
    with pytest.raises(SettingsError, match="DEVICE=cuda, but torch finds no GPU"):
        choose_device("cuda")


@with_gpu
@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_the_first_gpu_is_selected(wanted: str) -> None:
    assert choose_device(wanted) == torch.device("cuda:0")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["sdxl", "wan", "chat"])
def test_a_cpu_uses_float32(family: Family) -> None:
    assert choose_dtype(CPU, family) == torch.float32


@pytest.mark.parametrize(("family", "dtype"), [("sdxl", torch.float16), ("wan", torch.bfloat16), ("chat", torch.bfloat16)])
def test_a_gpu_uses_the_published_precision(family: Family, dtype: torch.dtype) -> None:
    assert choose_dtype(torch.device("cuda:0"), family) == dtype


def test_no_gpu_memory_is_reported_on_a_cpu() -> None:
    assert vram_used_mb(CPU) == 0


@with_gpu
def test_the_peak_of_gpu_memory_is_reported_in_mebibytes() -> None:
    device = torch.device("cuda:0")
    torch.cuda.reset_peak_memory_stats(device)
    before = vram_used_mb(device)
    torch.empty(64 * 2**20, dtype=torch.uint8, device=device)
    assert vram_used_mb(device) >= before + 64
