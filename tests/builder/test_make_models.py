"""`make models`: everything in one folder, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import StableDiffusionXLPipeline

from builder.make_models import CHECKPOINT, COPIED, make_models
from shared.weights.catalogue import SDXL
from shared.weights.folders import missing_files
from small_models.build_cache import UnmanagedFolder


def made(folder: Path, small_models: Path, until: str) -> dict[str, str]:
    """What was said about each part before `until`. The chat model takes half a minute, and has tests of its own."""
    outcomes = {}
    for name, outcome in make_models(folder, small_models):
        outcomes[name] = outcome
        if name == until:
            break
    return outcomes


@pytest.fixture
def trained(tmp_path: Path, small_models: Path) -> Path:
    """A folder of trained models, with a LoRA that tests may change."""
    folder = tmp_path / "small_models"
    (folder / "loras").mkdir(parents=True)
    (folder / "loras" / "outlined.safetensors").write_bytes(b"a LoRA")
    for name in set(COPIED) - {"loras"}:
        (folder / name).symlink_to(small_models / name)
    return folder


def test_trained_models_and_a_checkpoint_of_the_small_sdxl_are_put_in_place(trained: Path, small_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    outcomes = made(folder, trained, "checkpoints")
    assert outcomes["sdxl"] == outcomes["loras"] == outcomes["checkpoints"] == "made"
    assert missing_files(folder / "sdxl", SDXL.layout) == []
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (folder / "sdxl" / weights).read_bytes() == (small_models / "sdxl" / weights).read_bytes()
    assert (folder / "loras" / "outlined.safetensors").read_bytes() == b"a LoRA"
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    StableDiffusionXLPipeline.from_single_file(folder / CHECKPOINT, config=str(folder / "sdxl"), local_files_only=True)


def test_a_second_run_changes_nothing(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    made(folder, trained, "checkpoints")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    outcomes = made(folder, trained, "checkpoints")
    assert outcomes["sdxl"] == outcomes["loras"] == outcomes["checkpoints"] == "already current"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_trained_model_that_changed_is_copied_again(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    made(folder, trained, "loras")
    (trained / "loras" / "outlined.safetensors").write_bytes(b"a Lora")
    outcomes = made(folder, trained, "loras")
    assert (outcomes["sdxl"], outcomes["loras"]) == ("already current", "made")
    assert (folder / "loras" / "outlined.safetensors").read_bytes() == b"a Lora"


def test_somebodys_own_lora_is_never_lost(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    made(folder, trained, "loras")
    (folder / "loras" / "mine.safetensors").write_bytes(b"mine")
    assert made(folder, trained, "loras")["loras"] == "already current"
    (trained / "loras" / "outlined.safetensors").write_bytes(b"a Lora")
    with pytest.raises(UnmanagedFolder, match=r"mine\.safetensors in it was not made by this program"):
        made(folder, trained, "loras")
    assert (folder / "loras" / "mine.safetensors").read_bytes() == b"mine"
