"""Weights are verified against their lock: sizes at every start, hashes once."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from shared.self_check import startup_problems
from shared.settings import Settings
from shared.weights.errors import WeightsError
from shared.weights.lock import Lock, LockedFile, read_lock, write_lock
from shared.weights.verify import stamp_path, verify

CONTENT = b"numbers " * 1000


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights as a download leaves them."""
    files = {"config.json": b"{}", "vae/model.safetensors": CONTENT}
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    locked = tuple(LockedFile(path, len(content), hashlib.sha256(content).hexdigest()) for path, content in files.items())
    write_lock(tmp_path, Lock("owner/name", "0" * 40, "MIT", locked))
    return tmp_path


def spoil(weights: Path, content: bytes, *, later: bool = True) -> None:
    path = weights / "vae/model.safetensors"
    path.write_bytes(content)
    if later:
        os.utime(path, (time.time() + 10, time.time() + 10))


def test_intact_weights_pass_and_are_hashed_only_once(weights: Path) -> None:
    verify("sdxl", weights)
    assert stamp_path(weights).is_file()
    before = (weights / "vae/model.safetensors").stat()
    flipped = bytearray(CONTENT)
    flipped[5] ^= 1
    (weights / "vae/model.safetensors").write_bytes(flipped)
    os.utime(weights / "vae/model.safetensors", (before.st_atime, before.st_mtime))
    verify("sdxl", weights)  # nothing says that the file was changed, and so it is not read again


@pytest.mark.parametrize("stamped", [False, True], ids=["first start", "later start"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CONTENT[:-1], "7,999 bytes instead of 8,000"),
        (b"<!doctype html><title>Not found</title>", "bytes instead of"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8000\n", "bytes instead of"),
        (CONTENT[:-100] + bytes(100), "another SHA-256"),
        (CONTENT[:4000] + bytes([CONTENT[4000] ^ 1]) + CONTENT[4001:], "another SHA-256"),
    ],
    ids=["cut off", "a page", "a pointer", "zeros at the end", "a flipped bit"],
)
def test_damaged_files_are_named(weights: Path, content: bytes, reason: str, stamped: bool) -> None:
    if stamped:
        verify("sdxl", weights)
    spoil(weights, content)
    with pytest.raises(WeightsError, match=reason) as raised:
        verify("sdxl", weights)
    assert "vae/model.safetensors" in str(raised.value)


def test_a_missing_file_is_named(weights: Path) -> None:
    (weights / "vae/model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing"):
        verify("sdxl", weights)


def test_weights_without_a_lock_pass(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    verify("sdxl", tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
@pytest.mark.parametrize("single_file", [False, True])
def test_a_truncated_file_without_a_lock_is_named(tmp_path: Path, kept: int, single_file: bool) -> None:
    path = tmp_path / "unet" / "model.safetensors"
    path.parent.mkdir()
    save_file({"weight": np.zeros(99, np.float32)}, path)
    verify("sdxl", path if single_file else tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"model\.safetensors is truncated or damaged"):
        verify("sdxl", path if single_file else tmp_path)


def test_another_lock_invalidates_the_stamp(weights: Path) -> None:
    verify("sdxl", weights)
    lock = read_lock(weights)
    assert lock is not None
    write_lock(weights, replace(lock, files=tuple(replace(file, sha256="0" * 64) for file in lock.files)))  # of the same sizes
    with pytest.raises(WeightsError, match="SHA-256"):
        verify("sdxl", weights)


def test_an_invalid_lock_is_reported(weights: Path) -> None:
    (weights / "weights.lock.json").write_text("not json")
    with pytest.raises(WeightsError, match="not a valid lock file"):
        verify("sdxl", weights)


def test_a_read_only_folder_is_hashed_at_every_start(weights: Path) -> None:
    stamp_path(weights).mkdir()  # what a stamp cannot take the place of
    for _ in range(2):
        verify("sdxl", weights)
    spoil(weights, CONTENT[:-100] + bytes(100), later=False)
    with pytest.raises(WeightsError, match="SHA-256"):
        verify("sdxl", weights)


def test_damaged_weights_keep_a_worker_from_starting(weights: Path) -> None:
    spoil(weights, CONTENT[:-1])
    problems = startup_problems(Settings(), {"model": lambda _: verify("sdxl", weights)}, (), ())
    assert problems["model"].startswith("The weights of sdxl cannot be used: they are damaged: vae/model.safetensors has 7,999 bytes")
