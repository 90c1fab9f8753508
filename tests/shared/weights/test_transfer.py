"""A large file arrives in several parts at once, each of which is resumed where it stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import close_session, set_client_factory

from shared.weights.hub import DownloadError, PublishedFile
from shared.weights.lock import sha256_of
from shared.weights.partial_file import PartialFile, received_bytes
from shared.weights.transfer import CONNECTIONS, fetch, partial_path
from tests.doubles.fake_hub import FakeHub

REPO, REVISION, NAME = "owner/model", "a" * 40, "model.safetensors"
PART = 100_000
CONTENT = bytes(index * 7 % 251 for index in range(4 * PART - 500))
STARTS = [0, PART, 2 * PART, 3 * PART]


@pytest.fixture(autouse=True)
def plain_client() -> Iterator[None]:
    """A client that connects whatever HF_HUB_OFFLINE was when the hub's library was imported."""
    set_client_factory(lambda: httpx2.Client(follow_redirects=True))
    yield
    close_session()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub({NAME: CONTENT}, REPO, REVISION) as running:
        yield running


@dataclass
class Target:
    """Where the file is stored, and the bytes that were reported."""

    path: Path
    file: PublishedFile
    reported: list[int] = field(default_factory=list)

    @property
    def incomplete(self) -> Path:
        return partial_path(self.file, self.path)

    def fetch(self, *, connections: int = 1) -> None:
        fetch(self.file, self.path, self.reported.append, connections=connections, part_bytes=PART)

    def is_complete(self) -> bool:
        return self.path.read_bytes() == CONTENT and [path.name for path in self.path.parent.iterdir()] == [NAME]


@pytest.fixture
def target(hub: FakeHub, tmp_path: Path) -> Target:
    source = tmp_path / "published"
    source.write_bytes(CONTENT)
    url = f"{hub.url}/{REPO}/resolve/{REVISION}/{NAME}"
    return Target(tmp_path / "models" / NAME, PublishedFile(NAME, len(CONTENT), url, sha256_of(source)))


def requested(hub: FakeHub) -> list[int]:
    """The first byte of every requested part, in order."""
    return [int((request.range or "bytes=0-").removeprefix("bytes=").partition("-")[0]) for request in hub.downloads]


def test_the_parts_of_a_large_file_arrive_at_once(hub: FakeHub, target: Target) -> None:
    hub.gate = threading.Barrier(len(STARTS))  # no part is sent before all are requested
    target.fetch(connections=CONNECTIONS)
    assert target.is_complete()
    assert sorted(requested(hub)) == STARTS
    assert sum(target.reported) == len(CONTENT)


def test_each_part_is_resumed_at_its_own_offset(hub: FakeHub, target: Target) -> None:
    hub.truncations[NAME] = [30_000, PART, PART, 10_000]
    target.fetch()
    assert target.is_complete()
    assert requested(hub) == [0, 30_000, PART, 2 * PART, 2 * PART + 10_000, 3 * PART]
    assert sum(target.reported) == len(CONTENT)


def test_another_process_requests_only_what_has_not_arrived(hub: FakeHub, target: Target) -> None:
    def stop_after_two_parts(count: int) -> None:
        target.reported.append(count)
        if sum(target.reported) > 2 * PART + 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(target.file, target.path, stop_after_two_parts, connections=1, part_bytes=PART)
    arrived = received_bytes(target.incomplete)
    assert 2 * PART < arrived == sum(target.reported)
    hub.requests.clear()
    target.reported.clear()
    target.fetch()
    assert target.is_complete()
    assert min(requested(hub)) > 2 * PART
    assert sum(target.reported) == len(CONTENT) - arrived


def test_a_record_that_counts_more_than_its_part_has_is_not_believed(hub: FakeHub, target: Target) -> None:
    target.path.parent.mkdir()
    with PartialFile.open(target.incomplete, len(CONTENT), PART) as parts:
        parts.write(1, CONTENT[PART : 2 * PART])
    record = target.incomplete.with_name(f"{target.incomplete.name}.parts")
    record.write_bytes((10**6).to_bytes(8, "little") + record.read_bytes()[8:])
    target.fetch()
    assert target.is_complete()
    assert requested(hub) == [0, 2 * PART, 3 * PART]


@pytest.mark.parametrize("lost", ["", ".parts"])
def test_parts_without_their_record_are_received_again(hub: FakeHub, target: Target, lost: str) -> None:
    target.path.parent.mkdir()
    with PartialFile.open(target.incomplete, len(CONTENT), PART) as parts:
        parts.write(0, CONTENT[:PART])
    target.incomplete.with_name(target.incomplete.name + lost).unlink()
    target.fetch()
    assert target.is_complete()
    assert requested(hub) == STARTS


def test_a_host_that_ignores_ranges_sends_the_file_over_one_connection(hub: FakeHub, target: Target) -> None:
    hub.ignores_ranges = True
    target.fetch(connections=CONNECTIONS)
    assert target.is_complete()
    assert sum(target.reported) == len(CONTENT)


def test_a_corrupt_file_is_received_again_in_full(hub: FakeHub, target: Target) -> None:
    hub.corrupt[NAME] = 1
    target.fetch()
    assert target.is_complete()
    assert requested(hub) == STARTS * 2
    assert sum(target.reported) == len(CONTENT)


def test_a_file_that_stays_corrupt_leaves_nothing_behind(hub: FakeHub, target: Target) -> None:
    hub.corrupt[NAME] = 100
    with pytest.raises(DownloadError, match="with the wrong hash 2 times and deleted"):
        target.fetch()
    assert list(target.path.parent.iterdir()) == []
    assert sum(target.reported) == 0


@pytest.mark.parametrize("difference", [-1, 1, PART])
def test_a_file_of_another_size_is_refused_after_one_request(hub: FakeHub, target: Target, difference: int) -> None:
    hub.files[NAME] = CONTENT[:difference] if difference < 0 else CONTENT + bytes(difference)
    with pytest.raises(DownloadError, match=r"bytes at its host instead of the published 399,500\."):
        target.fetch()
    assert len(hub.downloads) == 1
    assert not target.path.exists()


def test_a_file_that_is_not_there_is_named_with_the_hosts_status(hub: FakeHub, target: Target) -> None:
    del hub.files[NAME]
    with pytest.raises(DownloadError, match=r"model\.safetensors could not be downloaded \(HTTP status 404\)\. Run again to resume\."):
        target.fetch(connections=CONNECTIONS)
    assert not target.path.exists()


def test_an_empty_file_needs_no_request(hub: FakeHub, target: Target) -> None:
    fetch(PublishedFile("empty.json", 0, "http://127.0.0.1:9/"), target.path, target.reported.append)
    assert target.path.read_bytes() == b""
    assert hub.requests == []
