"""What others have put into the outbox of a shared volume is set aside and named; the entries of this deployment are delivered."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from shared.contract.request import Identity
from shared.jobs.delivery.outbox import Outbox
from shared.jobs.delivery.outbox_entry import MANIFEST
from shared.jobs.delivery.outbox_keys import EntryKeys, entry_keys, hkdf_sha256
from shared.jobs.delivery.outbox_names import digest_of
from shared.jobs.delivery.redelivery import RedeliveryResult
from shared.settings import Settings
from tests.doubles.processes import clean_environment, run_module
from tests.shared.jobs.delivery.test_outbox import IDENTITY, KEY, add_entry, failed_payload, outbox_in, redelivery

OTHERS = Identity("others", "user-1", None, None)
THEIR_KEY = "user-1/others/0.png"
SECRET = "a-secret-of-sixteen-bytes"


def entry_of_others(folder: Path, outbox: Outbox) -> Path:
    """Adds an entry of this deployment for the attack to change."""
    writer = outbox.writer(OTHERS)
    writer.add(THEIR_KEY, b"pixels", "image/png")
    writer.commit(OTHERS, failed_payload(), webhook_id="job_failed", calls_back=False)
    (entry,) = (folder / "outbox").iterdir()
    return entry


def replace_file(make: Callable[[Path], object], name: str = "0.png") -> Callable[[Path], None]:
    def attack(entry: Path) -> None:
        (entry / name).unlink()
        make(entry / name)

    return attack


def replace_entry(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def attack(entry: Path) -> None:
        shutil.rmtree(entry)
        make(entry)

    return attack


def bind_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def moved(entry: Path) -> None:
    shutil.copytree(entry, entry.parent.parent / "elsewhere")
    shutil.rmtree(entry)
    entry.symlink_to(entry.parent.parent / "elsewhere")


def made_newer(entry: Path) -> None:
    job, _, mac = entry.name.split(".")
    entry.rename(entry.with_name(f"{job}.{10**19}.{mac}"))


def signed_by_another_tenant(entry: Path) -> None:
    manifest = (entry / MANIFEST).read_bytes()
    name = entry.name.rpartition(".")[0]
    entry.rename(entry.with_name(f"{name}.{EntryKeys([SecretStr('another-secret-of-them')]).mac(name, manifest)}"))


def renamed_to_another_job(entry: Path) -> None:
    entry.rename(entry.with_name("0" * 32 + entry.name[32:]))


def with_another_url(entry: Path) -> None:
    manifest = entry / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b'"callback_url":null', b'"callback_url":"https://xn--a/"'))


def with_more_files(entry: Path) -> None:
    manifest = entry / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b"others/0.png", b"victim/0.png"))


ATTACKS: dict[str, Callable[[Path], None]] = {
    "a link to the environment as a file": replace_file(lambda path: path.symlink_to("/proc/self/environ")),
    "a FIFO as a file": replace_file(os.mkfifo),
    "a directory as a file": replace_file(Path.mkdir),
    "a file of 1 TiB": replace_file(sparse),
    "a file of another content": replace_file(lambda path: path.write_bytes(b"pixelz")),
    "no file": replace_file(lambda path: None),
    "a link to the environment as the manifest": replace_file(lambda path: path.symlink_to("/proc/self/environ"), MANIFEST),
    "a FIFO as the manifest": replace_file(os.mkfifo, MANIFEST),
    "a socket as the manifest": replace_file(bind_socket, MANIFEST),
    "a manifest of 1 TiB": replace_file(sparse, MANIFEST),
    "deep JSON as the manifest": replace_file(lambda path: path.write_bytes(b"[" * 10**6), MANIFEST),
    "a FIFO as the entry": replace_entry(os.mkfifo),
    "a file as the entry": replace_entry(Path.touch),
    "a link to a folder as the entry": moved,
    "an empty folder as the entry": replace_entry(Path.mkdir),
    "an entry that was made newer": made_newer,
    "an entry of another tenant": signed_by_another_tenant,
    "an entry of another job": renamed_to_another_job,
    "an entry with another callback URL": with_another_url,
    "an entry with another user's key": with_more_files,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_others_have_written_is_set_aside_and_named_and_the_rest_is_delivered(tmp_path: Path, attack: Callable[[Path], None]) -> None:
    outbox = outbox_in(tmp_path, max_bytes=2**50)
    attack(entry_of_others(tmp_path, outbox))
    (attacked,) = (tmp_path / "outbox").iterdir()
    add_entry(outbox, b"our pixels")
    with capture_logs() as logs:
        assert redelivery(outbox, tmp_path).run() == RedeliveryResult(delivered=1, rejected=1)
    assert [line["entry"] for line in logs if line["event"] == "outbox entry set aside"] == [attacked.name]
    assert [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")] == [KEY]
    assert (tmp_path / "out" / KEY).read_bytes() == b"our pixels"
    assert redelivery(outbox, tmp_path).run() == RedeliveryResult(rejected=1), "it is not looked at again"


def test_the_redelivery_command_survives_all_of_them(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path, max_bytes=2**50)
    environment = clean_environment(OUTBOX_DIR=str(tmp_path / "outbox"), OUTPUT_DIR=str(tmp_path / "out"), JOB_CALLBACK_SECRET=SECRET)
    for attack in ATTACKS.values():
        for path in (tmp_path / "outbox").glob("*"):
            path.rename(tmp_path / path.name)
        attack(entry_of_others(tmp_path, outbox))
    for path in list(tmp_path.glob("*.*.*")):
        path.rename(tmp_path / "outbox" / path.name)
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    add_entry(outbox, b"our pixels")
    done = run_module("shared.redeliver", folder=tmp_path, environment=environment)
    assert (done.returncode, done.stdout.count("outbox entry set aside")) == (1, len(ATTACKS)), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "out" / KEY).read_bytes() == b"our pixels"


def test_a_foreign_entry_of_a_job_supersedes_no_entry_of_ours(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    add_entry(outbox, b"our pixels")
    (ours,) = outbox.pending()
    job, committed, mac = ours.name.split(".")
    shutil.copytree(ours, ours.with_name(f"{job}.{int(committed) + 1}.{mac}"))
    assert outbox.pending() == [ours]
    assert outbox.pending(digest_of(IDENTITY))
    ours.rename(ours.with_name(f"{job}.{int(committed) + 2}.{mac}"))
    assert not outbox.pending(digest_of(IDENTITY)), "so the failure of a job is kept although others have put an entry there"


@pytest.mark.parametrize("attack", ["a file of 1 TiB", "a manifest of 1 TiB"])
def test_what_others_have_written_leaves_room_for_our_results(tmp_path: Path, attack: str) -> None:
    outbox = outbox_in(tmp_path)
    ATTACKS[attack](entry_of_others(tmp_path, outbox))
    add_entry(outbox, b"our pixels")
    assert redelivery(outbox, tmp_path).run() == RedeliveryResult(delivered=1, rejected=1)


def test_a_file_that_changes_after_its_check_is_not_uploaded(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    add_entry(outbox)
    (path,) = outbox.pending()
    with outbox.open(path) as entry:
        entry.check_files()
        with entry.copy_of(entry.manifest.files[0]) as copy:
            (path / "0.png").write_bytes(b"others")
            assert copy.read_bytes() == b"pixels", "what was hashed is what is uploaded"
            assert copy.stat().st_mode & 0o077 == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_that_was_not_foreseen_leaves_its_entry_pending_and_ends_no_other(tmp_path: Path) -> None:
    """An authentic entry whose payload has no `completedAt`, as a later version could write it."""
    outbox = outbox_in(tmp_path)
    add_entry(outbox, identity=OTHERS)
    (path,) = outbox.pending()
    manifest = (path / MANIFEST).read_bytes().replace(b"completedAt", b"completed__")
    (path / MANIFEST).write_bytes(manifest)
    name = path.name.rpartition(".")[0]
    path.rename(path.with_name(f"{name}.{outbox.keys.mac(name, manifest)}"))
    add_entry(outbox, b"our pixels")
    assert redelivery(outbox, tmp_path).run() == RedeliveryResult(delivered=1, pending=1)


def test_entries_of_a_previous_secret_are_delivered_after_a_rotation(tmp_path: Path) -> None:
    def outbox_with(**secrets: str) -> Outbox:
        settings = Settings.model_validate(secrets)
        return Outbox(tmp_path / "outbox", entry_keys(settings), max_bytes=10_000, max_age=3600.0)

    new: dict[str, Any] = {"job_callback_secret": "a-new-secret-of-22-bytes"}
    add_entry(outbox_with(job_callback_secret=SECRET))
    assert redelivery(outbox_with(**new, job_callback_secret_previous=SECRET), tmp_path).run() == RedeliveryResult(delivered=1)
    add_entry(outbox_with(supabase_key="service-key"))
    assert redelivery(outbox_with(**new, supabase_key="service-key"), tmp_path).run() == RedeliveryResult(delivered=1), "a secret was added"
    add_entry(outbox_with(job_callback_secret=SECRET))
    assert redelivery(outbox_with(**new), tmp_path).run() == RedeliveryResult(rejected=1)


def test_keys_are_derived_as_rfc_5869_says() -> None:
    """Its test cases 1 and 3, of which the first 32 bytes are one block of output."""
    info, salt = bytes(range(0xF0, 0xFA)), bytes(range(13))
    assert hkdf_sha256(b"\x0b" * 22, info, salt).hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    assert hkdf_sha256(b"\x0b" * 22, b"").hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
