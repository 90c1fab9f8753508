from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from shared.models.prefetch import all_weight_files, prefetched

MEBIBYTE = 2**20


def bytes_read() -> int:
    """What this process has read through system calls, also from the page cache."""
    return int(Path("/proc/self/io").read_text(encoding="ascii").split()[1])


def wait_until_read(least: int, deadline: float = 60.0) -> None:
    ends = time.monotonic() + deadline
    while bytes_read() < least and time.monotonic() < ends:
        time.sleep(0.005)


def test_every_file_is_read_completely_while_the_body_runs(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(3)]
    for path, size in zip(files, (40 * MEBIBYTE + 1, 1, 17 * MEBIBYTE), strict=True):
        path.write_bytes(bytes(size))
    total = sum(path.stat().st_size for path in files)
    before = bytes_read()
    with prefetched(files):
        wait_until_read(before + total)
        assert bytes_read() - before >= total


def test_reading_stops_when_the_body_ends(tmp_path: Path) -> None:
    huge = tmp_path / "sparse"
    with huge.open("wb") as file:
        file.truncate(1024 * 1024 * MEBIBYTE)  # a tebibyte that takes no room, and minutes to read
    with prefetched([huge]):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_reading_stops_when_the_body_fails_and_the_error_propagates(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(KeyError, match="mine"), prefetched([tmp_path / "file"]):
        raise KeyError("mine")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_a_file_is_read_once_when_a_loader_prefetches_what_its_handler_does_already(tmp_path: Path) -> None:
    known, new, later = (tmp_path / name for name in ("known", "new", "later"))
    for path, size in ((known, 40), (new, 1), (later, 8)):
        path.write_bytes(bytes(size * MEBIBYTE))
    before = bytes_read()
    with prefetched([known]):
        with prefetched([known, new]), prefetched([new, known]):
            wait_until_read(before + 41 * MEBIBYTE)
        with prefetched([later, known]):
            wait_until_read(before + 49 * MEBIBYTE)
    assert 49 * MEBIBYTE <= bytes_read() - before < 50 * MEBIBYTE
    with prefetched([known]):
        wait_until_read(before + 89 * MEBIBYTE)
    assert bytes_read() - before >= 89 * MEBIBYTE, "a later one reads it again"


def test_unreadable_files_are_skipped(tmp_path: Path) -> None:
    unreadable = [tmp_path / str(number) for number in range(8)]
    for path in unreadable:
        path.mkdir()
    good = tmp_path / "good"
    good.write_bytes(bytes(5 * MEBIBYTE))
    before = bytes_read()
    with prefetched([*unreadable, good]):
        wait_until_read(before + 5 * MEBIBYTE)
        assert bytes_read() - before >= 5 * MEBIBYTE


def test_the_files_of_a_model_come_in_the_order_in_which_it_is_loaded(tiny_models: Path, tmp_path: Path) -> None:
    def folders(weights: Path, *, half: bool = False) -> list[str]:
        return list(dict.fromkeys(path.parent.name for path in all_weight_files(weights, half=half)))

    assert folders(tiny_models / "sdxl", half=True) == ["text_encoder", "text_encoder_2", "unet", "vae"]
    assert folders(tiny_models / "wan") == ["text_encoder", "transformer", "vae"]
    assert folders(tiny_models / "qwen_instruct") == ["qwen_instruct"]
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.touch()
    assert list(all_weight_files(checkpoint, half=True)) == [checkpoint]
