"""`--check`: preflight checks for the build of an image and for operators."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.doubles.processes import ROOT, clean_environment, run_module


def check(handler: str, tmp_path: Path, *scope: str, **environment: str) -> tuple[int, dict[str, str]]:
    """Returns the exit code and the outcome of each check."""
    variables = clean_environment(**{"MODELS_DIR": str(tmp_path / "models"), "OUTPUT_DIR": str(tmp_path / "out")} | environment)
    done = run_module(f"handlers.{handler}.handler", "--check", *scope, folder=tmp_path, environment=variables)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {line["check"]: line.get("reason", "passed") for line in lines if "check" in line}


@pytest.mark.parametrize(
    ("handler", "checks"), [("sdxl", ("libraries",)), ("wan", ("libraries", "encoder")), ("chat", ("libraries", "engine"))], ids=str
)
def test_image_check_needs_no_weights_and_no_storage(handler: str, checks: tuple[str, ...], tmp_path: Path) -> None:
    assert check(handler, tmp_path, "image", SUPABASE_SERVICE_KEY="") == (0, dict.fromkeys(checks, "passed"))


def test_weights_check_reports_the_searched_paths(tmp_path: Path) -> None:
    code, checks = check("chat", tmp_path, "weights", ALLOW_DOWNLOADS="1")
    assert code == 1
    assert "'qwen_instruct' (Qwen/Qwen2.5-7B-Instruct) were not found. Searched" in checks["weights qwen_instruct"]
    assert checks["libraries"] == "passed"


def test_full_check_passes_on_a_ready_machine(tmp_path: Path, tiny_models: Path) -> None:
    code, checks = check("chat", tmp_path, MODELS_DIR=str(tiny_models))
    assert (code, set(checks.values())) == (0, {"passed"})
    assert {"libraries", "weights qwen_instruct", "storage", "outbox", "callbacks", "models"} <= set(checks)


def test_full_check_finds_weights_that_the_start_would_refuse(tmp_path: Path, tiny_models: Path) -> None:
    folder = Path(shutil.copytree(tiny_models / "sdxl", tmp_path / "models" / "sdxl"))
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(vae)
    tensors["decoder.conv_in.bias"][0] = float("nan")
    save_file(tensors, vae, metadata={"format": "pt"})
    code, checks = check("sdxl", tmp_path, MODELS_DIR=str(tmp_path / "models"))
    assert (code, {name for name, outcome in checks.items() if outcome != "passed"}) == (1, {"models"})
    assert "decoder.conv_in.bias" in checks["models"]
    vae.write_bytes(vae.read_bytes()[:-1])
    code, checks = check("sdxl", tmp_path, MODELS_DIR=str(tmp_path / "models"))
    assert code == 1
    assert "vae/diffusion_pytorch_model.safetensors is truncated or damaged" in checks["weights sdxl"]


def test_all_failed_checks_are_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    code, checks = check("chat", tmp_path, OUTPUT_DIR=str(tmp_path / "file"), OUTBOX_DIR=str(tmp_path / "file"))
    assert code == 1
    assert {name for name, outcome in checks.items() if outcome != "passed"} == {"weights qwen_instruct", "storage", "outbox"}


def test_failed_import_is_reported(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    shutil.copytree(ROOT / "handlers", hidden / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
    (hidden / "handlers" / "chat" / "recipe.py").write_text("import library_that_is_not_installed\n")
    code, checks = check("chat", tmp_path, "image", PYTHONPATH=f"{hidden}:{ROOT}")
    assert code == 1
    assert "handlers.chat.recipe cannot be imported (No module named 'library_that_is_not_installed')" in checks["libraries"]


def test_incomplete_configuration_fails_first(tmp_path: Path) -> None:
    code, checks = check("chat", tmp_path, "image", SUPABASE_URL="https://project.example")
    assert code == 1
    assert list(checks) == ["configuration"]
    assert "SUPABASE_SERVICE_ROLE_KEY" in checks["configuration"]
