"""`builder.download_weights --checkpoint`: one file of one's own, from a URL or a path, verified and locked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.weights.catalogue import QWEN_BASE, SDXL
from shared.weights.lock import lock_path, read_lock
from tests.builder.download_command import Download, random_weights
from tests.doubles.fake_hub import FakeHub

CONTENT = random_weights(5, 500_000)


@pytest.fixture
def target(download: Download) -> Path:
    return download.models / "sdxl.safetensors"


@pytest.fixture
def url(hub: FakeHub) -> str:
    hub.files["own.safetensors"] = CONTENT
    return f"{hub.url}/{QWEN_BASE.repo}/resolve/{QWEN_BASE.revision}/own.safetensors?token=canary-query"


def test_it_is_downloaded_from_a_url_and_locked_without_the_urls_secrets(hub: FakeHub, download: Download, target: Path, url: str) -> None:
    hub.truncations["own.safetensors"] = [1, 100_000]  # the size request, and the first attempt
    status, output = download.run("--checkpoint", url, "--licence", "OpenRAIL")
    assert status == 0, output
    assert target.read_bytes() == CONTENT
    lock = read_lock(target)
    assert lock is not None
    assert (lock.revision, lock.licence, lock.files[0].path) == (None, "OpenRAIL", "sdxl.safetensors")
    assert "canary-query" not in lock_path(target).read_text() + output


def test_it_is_copied_from_a_path(download: Download, target: Path, tmp_path: Path) -> None:
    source = tmp_path / "mine.safetensors"
    source.write_bytes(CONTENT)
    status, output = download.run("--checkpoint", str(source))
    assert status == 0, output
    assert "The SHA-256 of this checkpoint is unknown" in output
    assert json.loads(lock_path(target).read_text())["source"] == "mine.safetensors"


def test_it_is_verified_against_the_sha256_that_the_hub_publishes(hub: FakeHub, download: Download, target: Path, url: str) -> None:
    hub.corrupt["own.safetensors"] = 3  # the size request, and two attempts
    status, output = download.run("--checkpoint", url)
    assert status == 1
    assert "was received with the wrong hash 2 times and deleted" in output
    assert not target.exists()


def test_it_is_verified_against_the_sha256_of_the_command_line(download: Download, target: Path, tmp_path: Path) -> None:
    source = tmp_path / "mine.safetensors"
    source.write_bytes(CONTENT)
    status, output = download.run("--checkpoint", str(source), "--sha256", "0" * 64)
    assert status == 1
    assert "mine.safetensors does not match the SHA-256 given with --sha256." in output
    assert not target.exists()


def test_a_truncated_file_is_rejected_even_without_a_sha256(download: Download, target: Path, tmp_path: Path) -> None:
    source = tmp_path / "mine.safetensors"
    source.write_bytes(CONTENT[:-1])
    status, output = download.run("--checkpoint", str(source))
    assert status == 1
    assert "is not a complete .safetensors file" in output
    assert not target.exists()


def test_a_worker_loads_it_as_sdxl(download: Download, target: Path, url: str) -> None:
    from shared.settings import Settings
    from shared.weights.resolve import resolve

    download.run("--checkpoint", url)
    assert resolve(SDXL, Settings(models_dir=download.models)) == target
