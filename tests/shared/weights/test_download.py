"""A worker downloads missing weights at start, if its operator allows it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.weights.catalogue import QWEN_BASE
from shared.weights.lock import read_lock
from tests.doubles.fake_hub import FakeHub

# What a worker does at its start, in a process of its own: the hub's library reads its environment when it is imported.
START = """
from shared.settings import SettingsError, load_settings, prepare_environment
from shared.weights.catalogue import QWEN_BASE
from shared.weights.resolve import resolve

prepare_environment()
try:
    print("FOUND", resolve(QWEN_BASE, load_settings()))
except SettingsError as error:
    print("STOPPED", error)
"""


@pytest.fixture
def hub(tiny_models: Path) -> Iterator[FakeHub]:
    folder = tiny_models / "qwen_base"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "made.json"}
    with FakeHub(files, QWEN_BASE.repo, str(QWEN_BASE.revision)) as running:
        yield running


def start(hub: FakeHub, models: Path, **environment: str) -> str:
    root = Path(__file__).parents[3]
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(models.parent / "home"), "MODELS_DIR": str(models), "NO_PROXY": "*", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", START], env=environment, cwd=root, capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_missing_weights_are_downloaded_at_the_pinned_revision_if_allowed(hub: FakeHub, tmp_path: Path) -> None:
    output = start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    folder = tmp_path / "models" / "qwen_base"
    assert f"FOUND {folder}\n" in output
    assert {name: (folder / name).read_bytes() for name in hub.files} == hub.files
    assert all(f"/{QWEN_BASE.revision}" in path for path in hub.requested_paths if not path.startswith("/large/"))


def test_a_worker_writes_the_same_lock_as_the_download_command(hub: FakeHub, tmp_path: Path) -> None:
    start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    lock = read_lock(tmp_path / "models" / "qwen_base")
    assert lock is not None
    assert (lock.source, lock.revision, lock.licence) == (QWEN_BASE.repo, QWEN_BASE.revision, QWEN_BASE.licence)
    assert {file.path for file in lock.files} == set(hub.files)


def test_only_the_files_of_the_catalogue_entry_are_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    hub.files |= {"pytorch_model.bin": b"a pickle", "README.md": b"words", "onnx/model.onnx": b"another form"}
    start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    assert not any(path.endswith((".bin", ".md", ".onnx")) for path in hub.requested_paths)


def test_a_second_start_does_not_contact_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    hub.requests.clear()
    assert "FOUND" in start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    assert hub.requested_paths == []


def test_the_hub_is_not_contacted_unless_allowed(hub: FakeHub, tmp_path: Path) -> None:
    assert "STOPPED The weights 'qwen_base' (Qwen/Qwen2.5-7B) were not found." in start(hub, tmp_path / "models")
    assert hub.requested_paths == []


def test_an_incomplete_download_stops_the_worker(hub: FakeHub, tmp_path: Path) -> None:
    del hub.files["model-00002-of-00002.safetensors"]
    output = start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    assert "STOPPED The download of the weights 'qwen_base' is not complete" in output
    assert "lacks model-00002-of-00002.safetensors" in output


def test_a_wrong_hash_stops_the_worker(hub: FakeHub, tmp_path: Path) -> None:
    hub.corrupt["config.json"] = 2
    output = start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    assert "STOPPED The weights 'qwen_base' could not be downloaded from Qwen/Qwen2.5-7B." in output
    assert "config.json was received with the wrong hash 2 times" in output


def test_a_missing_repository_stops_the_worker(hub: FakeHub, tmp_path: Path) -> None:
    hub.revision = "0" * 40
    output = start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    assert "STOPPED The weights 'qwen_base' could not be downloaded" in output
