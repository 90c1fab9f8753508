"""`builder.download_weights`, in a process of its own, survives SIGKILL, cut connections and corrupt data, or reports why it failed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from shared.weights.catalogue import QWEN_BASE
from shared.weights.lock import read_lock, sha256_of
from shared.weights.partial_file import PART_BYTES
from tests.builder.download_command import FIRST, SECOND, TOKEN, Download, random_weights
from tests.doubles.fake_hub import FakeHub


def test_it_downloads_all_files_and_writes_a_lock_file(hub: FakeHub, download: Download) -> None:
    status, output = download.run()
    assert status == 0, output
    assert download.is_as_published(hub)
    lock = read_lock(download.folder)
    assert lock is not None
    assert (lock.source, lock.revision, lock.licence) == (QWEN_BASE.repo, QWEN_BASE.revision, "Apache-2.0")
    assert {file.path: (file.bytes, file.sha256) for file in lock.files} == {
        name: (len(content), sha256_of(download.folder / name)) for name, content in hub.files.items()
    }


def test_it_prints_the_licence_before_downloading(hub: FakeHub, download: Download) -> None:
    hub.files.clear()
    status, output = download.run()
    assert status == 1
    assert f"qwen_base: Qwen/Qwen2.5-7B at {QWEN_BASE.revision}, licence Apache-2.0" in output


def test_a_second_run_makes_no_request(hub: FakeHub, download: Download) -> None:
    download.run()
    hub.requests.clear()
    status, output = download.run()
    assert (status, hub.requests) == (0, [])
    assert "complete and verified against its lock file. Nothing to do." in output


def test_the_token_is_sent_to_the_hub_only_and_never_written(hub: FakeHub, download: Download, tmp_path: Path) -> None:
    _, output = download.run()
    assert {request.authorization for request in hub.requests if not request.path.startswith("/large/")} == {f"Bearer {TOKEN}"}
    assert {request.authorization for request in hub.downloads} == {None}
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in content or b"canary-signature" in content for content in [*written, output.encode()])


@pytest.mark.slow
def test_after_five_sigkills_at_random_times_it_resumes_and_completes(hub: FakeHub, download: Download) -> None:
    hub.files |= {FIRST: random_weights(3, 100_000_000), SECOND: random_weights(4, 60_000_000)}
    hub.bytes_per_second = 20e6
    draw = random.Random(0)
    for _ in range(5):
        before = download.bytes_on_disk
        with download.start() as process:
            while download.bytes_on_disk <= before and process.poll() is None:
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert read_lock(download.folder) is None
    hub.bytes_per_second = None
    status, output = download.run()
    assert status == 0, output
    assert download.is_as_published(hub)
    ranges = [request.range for request in hub.downloads if request.path.endswith(FIRST) and request.range]
    first_part = [start for start in (int(part.removeprefix("bytes=").partition("-")[0]) for part in ranges) if start < PART_BYTES]
    assert first_part == sorted(first_part)
    assert first_part[0] == 0 < first_part[-1]


def test_a_broken_connection_is_resumed_at_its_offset(hub: FakeHub, download: Download) -> None:
    hub.files[FIRST] = random_weights(3, 30_000_000)
    hub.truncations[FIRST] = [25_000_000]
    status, output = download.run()
    assert status == 0, output
    assert download.is_as_published(hub)
    last = len(hub.files[FIRST]) - 1
    assert [request.range for request in hub.downloads if request.path.endswith(FIRST)] == [None, f"bytes=25000000-{last}"]


def test_a_host_that_ignores_range_requests_causes_no_corrupt_file(hub: FakeHub, download: Download) -> None:
    hub.files[FIRST] = random_weights(3, 30_000_000)
    hub.truncations[FIRST] = [25_000_000]
    hub.ignores_ranges = True
    status, output = download.run()
    assert status == 0, output
    assert download.is_as_published(hub)


@pytest.mark.parametrize("name", [FIRST, "config.json"])
def test_a_corrupt_file_is_discarded_and_downloaded_again(hub: FakeHub, download: Download, name: str) -> None:
    hub.corrupt[name] = 1
    status, output = download.run()
    assert status == 0, output
    assert download.is_as_published(hub)


@pytest.mark.parametrize("name", [FIRST, "config.json"])
def test_a_file_that_is_corrupt_twice_is_rejected(hub: FakeHub, download: Download, name: str) -> None:
    hub.corrupt[name] = 2
    status, output = download.run()
    assert status == 1
    assert f"{name} was received with the wrong hash 2 times and deleted." in output
    assert not (download.folder / name).exists()
    assert read_lock(download.folder) is None


@pytest.mark.parametrize("name", [FIRST, "config.json"])
def test_a_file_that_changed_on_disk_is_detected_and_only_it_is_downloaded_again(hub: FakeHub, download: Download, name: str) -> None:
    download.run()
    content = hub.files[name]
    (download.folder / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    hub.requests.clear()
    status, output = download.run()
    assert status == 0, output
    assert download.is_as_published(hub)
    assert {path.rpartition("/")[2] for path in hub.requested_paths if "/tree/" not in path} == {name}


def test_existing_files_with_the_published_hashes_are_kept(hub: FakeHub, download: Download) -> None:
    download.folder.mkdir(parents=True)
    for name, content in hub.files.items():
        (download.folder / name).write_bytes(content)
    status, output = download.run()
    assert status == 0, output
    assert [path for path in hub.requested_paths if "/tree/" not in path] == []
    assert read_lock(download.folder) is not None


@pytest.mark.parametrize("place", [f"cache/models--Qwen--Qwen2.5-7B/snapshots/{QWEN_BASE.revision}", "volume/qwen_base"])
def test_local_copies_are_verified_and_used_instead_of_downloads(hub: FakeHub, download: Download, tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    for name, content in hub.files.items():
        (folder / name).write_bytes(content)
    (folder / SECOND).write_bytes(bytes(len(hub.files[SECOND])))  # the right size, but corrupt
    status, output = download.run()
    assert status == 0, output
    assert download.is_as_published(hub)
    assert {path.rpartition("/")[2] for path in hub.requested_paths if "/tree/" not in path} == {SECOND}


def test_insufficient_disk_space_is_detected_before_downloading(hub: FakeHub, download: Download) -> None:
    hub.claimed_sizes = {FIRST: 10**15}
    status, output = download.run()
    assert status == 1
    assert "needs 1000000.00 GB, and its disk has" in output
    assert [path for path in hub.requested_paths if "/tree/" not in path] == []


def test_an_http_error_is_reported_with_its_status(hub: FakeHub, download: Download) -> None:
    hub.error_statuses = {FIRST: 403}
    status, output = download.run()
    assert status == 1
    assert f"{FIRST} could not be downloaded (HTTP status 403). Run again to resume." in output


def test_a_file_of_another_size_than_the_published_one_is_rejected_at_once(hub: FakeHub, download: Download) -> None:
    actual = len(hub.files[FIRST])
    hub.claimed_sizes = {FIRST: actual + 1}
    status, output = download.run()
    assert status == 1
    assert f"{FIRST} has {actual:,} bytes at its host instead of the published {actual + 1:,}." in output
    assert len([path for path in hub.requested_paths if path.endswith(FIRST)]) == 2  # the hub's and its host's answer


def test_an_unknown_name_is_rejected_with_the_available_ones(download: Download) -> None:
    status, output = download.run("sdxxl")
    assert status == 1
    assert "Not in the catalogue: sdxxl. Available: chat, qwen_base, qwen_instruct, sdxl, wan." in output
