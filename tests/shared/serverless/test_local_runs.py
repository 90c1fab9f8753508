"""`python -m handlers.<handler>.handler` without RunPod runs a single local job."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
from PIL import Image

from tests.doubles.processes import ROOT, clean_environment, run_module

HANDLERS = ("sdxl", "wan", "chat")


def sample(handler: str) -> dict[str, Any]:
    job: dict[str, Any] = json.loads((ROOT / "handlers" / handler / "test_input.json").read_text())
    return job


def run_locally(
    handler: str, tmp_path: Path, models: Path, *arguments: str, folder: Path | None = None, fresh: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(MODELS_DIR=str(models), OUTPUT_DIR=str(tmp_path / "out"), **variables)
    return run_module(f"handlers.{handler}.handler", *arguments, folder=folder or tmp_path, environment=environment, fresh=fresh)


def callback(tmp_path: Path, job: dict[str, Any]) -> dict[str, Any]:
    path = tmp_path / "out" / job["input"]["user_id"] / job["input"]["id"] / "callback.json"
    payload: dict[str, Any] = json.loads(path.read_bytes())
    return payload


@pytest.mark.parametrize("handler", HANDLERS)
def test_local_run_stores_what_the_payload_describes(handler: str, tmp_path: Path, tiny_models: Path) -> None:
    """In a fresh process: once per handler, nothing has been imported before."""
    job = sample(handler)
    done = run_locally(handler, tmp_path, tiny_models, "--test_input", json.dumps(job), fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for asset in callback(tmp_path, job)["assets"]:
        facts = asset["metadata"]
        if asset["type"] == "text":
            assert asset["content"]
        elif asset["type"] == "image":
            width, _, height = job["input"]["config"]["resolution"].partition("x")
            with Image.open(tmp_path / "out" / asset["url"]) as image:
                assert image.size == (facts["width"], facts["height"]) == (int(width), int(height))
        else:
            clip = tmp_path / "out" / asset["url"]
            assert len(iio.imread(clip, plugin="pyav")) == facts["frames"] == job["input"]["config"]["frames"]
            assert iio.immeta(clip, plugin="pyav")["fps"] == facts["fps"] == job["input"]["config"]["fps"]
            assert asset["duration_seconds"] == facts["frames"] / facts["fps"]


def test_sdxl_reads_test_input_from_the_repository_root(tmp_path: Path, tiny_models: Path) -> None:
    done = run_locally("sdxl", tmp_path, tiny_models, folder=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    job = json.loads((ROOT / "test_input.json").read_text())
    (asset,) = callback(tmp_path, job)["assets"]
    with Image.open(tmp_path / "out" / asset["url"]) as image:
        assert image.size == (64, 64)


def test_failed_local_run_exits_with_1(tmp_path: Path, tiny_models: Path) -> None:
    job = sample("sdxl")
    job["input"]["config"]["steps"] = 99
    done = run_locally("sdxl", tmp_path, tiny_models, "--test_input", json.dumps(job))
    assert done.returncode == 1
    assert "config.steps" in done.stdout


def test_chat_streams_locally(tmp_path: Path, tiny_models: Path) -> None:
    """Left to itself, RunPod's SDK returns a local generator without running it, and reports success."""
    job = sample("chat")
    job["input"] |= {"stream": True, "temperature": 0}
    done = run_locally("chat", tmp_path, tiny_models, "--test_input", json.dumps(job), CHAT_STREAMING="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert callback(tmp_path, job)["response"]
    assert "{'delta': " in done.stdout
    wrong = {"input": job["input"] | {"max_tokens": 0}}
    done = run_locally("chat", tmp_path, tiny_models, "--test_input", json.dumps(wrong), CHAT_STREAMING="1")
    assert done.returncode == 1
    assert "max_tokens" in done.stdout


def test_missing_weights_are_reported_with_every_searched_path(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    done = run_locally("sdxl", tmp_path, tmp_path / "none", "--test_input", json.dumps(sample("sdxl")))
    assert done.returncode == 1
    assert "MODELS_DIR" in done.stderr
    assert "SDXL_MODEL" in done.stderr
    assert "Traceback" not in done.stderr


def test_chat_never_imports_diffusion() -> None:
    code = "import sys, handlers.chat.handler, handlers.chat.recipe; print([m for m in sys.modules if m.split('.')[0] == 'diffusers'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
