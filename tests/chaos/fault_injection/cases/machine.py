"""Faults of the device, the models and the machine."""

from __future__ import annotations

import contextlib
import pickle
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from shared.weights.lock import Lock, LockedFile, sha256_of, write_lock
from tests.chaos.fault_injection.harness import Harness, sdxl, wan
from tests.chaos.fault_injection.registry import fault
from tests.chaos.fault_injection.worker_handle import WorkerHandle
from tests.doubles.fake_storage import fails_with


@fault(
    "F23",
    "A lost GPU: illegal memory access, ECC, launch failure, as `AcceleratorError` and as a message of another error",
    "`DEVICE_ERROR`; the worker takes no further job and exits with 1",
)
def _(harness: Harness) -> None:
    for index, fault_name in enumerate(("illegal access", "ecc", "launch failure", "lost by text")):
        with harness.dedicated_worker("stub") as worker:
            worker.inject("denoiser", fault_name)
            output = worker.run_job(sdxl(f"F23-{index}"))
            assert output["metadata"].get("error_code") == "DEVICE_ERROR"
            assert worker.results[-1].body["stopPod"] is True
            worker.runpod_api.submit(sdxl(f"F23-{index}-next"))
            assert worker.process.wait() == 1
            assert worker.runpod_api.results(f"F23-{index}-next") == []


@fault(
    "F21",
    "`torch.OutOfMemoryError` while denoising, once and always",
    "once: completed, with a warning that names the fallback; always: `OOM_ERROR`",
)
def _(harness: Harness) -> None:
    worker = harness.worker()
    worker.inject("denoiser", "oom")
    output = harness.run_job(sdxl("F21-once"))
    assert output["status"] == "completed"
    assert any("Out of memory" in warning for warning in output["metadata"]["warnings"])
    worker.inject("denoiser", "oom", times=1000)
    output = harness.run_job(sdxl("F21-always"))
    assert (output["metadata"].get("error_code"), output["metadata"].get("retryable")) == ("OOM_ERROR", True)
    assert len(output["metadata"]["warnings"]) >= 2, "one for each fallback"


@fault("F22", "`torch.OutOfMemoryError` in the VAE only", "decoded in tiles; the denoising is not repeated", handlers=("wan",))
def _(harness: Harness) -> None:
    for handler, job in (("sdxl", sdxl("F22-sdxl")), ("wan", wan("F22-wan"))):
        worker = harness.worker(handler)
        worker.inject("decoder", "oom", times=2)
        before = worker.calls("denoiser")
        output = harness.run_job(job, handler=handler)
        assert output["status"] == "completed"
        assert any("in tiles" in warning for warning in output["metadata"]["warnings"])
        calls_per_step = 2 if handler == "wan" else 1  # WAN runs classifier-free guidance as a second call
        assert worker.calls("denoiser") - before == calls_per_step * output["assets"][0]["metadata"]["steps"]


@fault("F25", "NaN latents; a decoder that returns NaN or a single colour", "`GENERATION_ERROR`, never a black image", handlers=("wan",))
def _(harness: Harness) -> None:
    for handler, make in (("sdxl", sdxl), ("wan", wan)):
        for index, (target, fault_name) in enumerate((("denoiser result", "nan"), ("decoder result", "nan"), ("decoder result", "black"))):
            harness.worker(handler).inject(target, fault_name, times=100)
            output = harness.run_job(make(f"F25-{handler}-{index}"), handler=handler)
            assert (output["metadata"].get("error_code"), output["metadata"].get("retryable")) == ("GENERATION_ERROR", True)
            assert output["assets"] == []
            harness.clear_faults()


@fault(
    "F24",
    "A call that never returns; an extension that never releases the GIL",
    "`JOB_TIMEOUT` at the deadline; the worker exits with 1",
)
def _(harness: Harness) -> None:
    with harness.dedicated_worker("stub", JOB_TIMEOUT="6", JOB_GRACE="0.5") as worker:
        worker.inject("denoiser", "hang")
        output = worker.run_job(sdxl("F24", prompt="a heron"))
        assert (output["metadata"].get("error_code"), output["metadata"].get("retryable")) == ("JOB_TIMEOUT", True)
        assert worker.process.wait() == 1
    limits = {"JOB_TIMEOUT": "5", "JOB_GRACE": "0.5", "UPLOAD_DEADLINE": "0.5", "CALLBACK_DEADLINE": "0.5"}
    with harness.dedicated_worker("stub", **limits) as worker:
        worker.runpod_api.submit(sdxl("F24-freezes", prompt="freeze heron"))
        assert worker.process.wait() == 1


@fault(
    "F26",
    "A full disk: while a video is written, and while a result is written to the outbox",
    "failed with a code; no file remains; the next video is written",
    handlers=("wan",),
)
def _(harness: Harness) -> None:
    with (
        tmpfs(harness.folder / "disk", "260m") as disk,
        tmpfs(harness.folder / "spool", "1m") as spool,
        harness.dedicated_worker("wan", TMPDIR=str(disk), OUTBOX_DIR=str(spool / "outbox")) as worker,
    ):
        with filled_disk(disk):
            output = worker.run_job(wan("F26-written"))
            assert output["metadata"].get("error_code") == "INTERNAL_ERROR"
        assert worker.run_job(wan("F26-next"))["status"] == "completed"
        harness.storage.outage = fails_with(503)
        with filled_disk(spool):
            output = worker.run_job(wan("F26-outbox"))
        assert output["metadata"].get("error_code") == "UPLOAD_ERROR"
        assert "assets_pending" not in output["metadata"], "only files in the outbox are announced"
        harness.storage.recover()
        assert list(disk.iterdir()) == []
        assert list((spool / "outbox").iterdir()) == []


@fault(
    "F27",
    "A video encoder that fails; one that the machine does not have",
    "no partial video is stored; the worker does not start",
    handlers=("wan",),
)
def _(harness: Harness) -> None:
    before = set(harness.storage.objects)
    harness.worker("wan").inject("encoder", "fails")
    output = harness.run_job(wan("F27"), handler="wan")
    assert output["metadata"].get("error_code") == "INTERNAL_ERROR"
    assert set(harness.storage.objects) == before
    with harness.dedicated_worker("wan", VIDEO_ENCODER="h264_nvenc") as worker:
        assert worker.process.wait() == 1
        assert worker.runpod_api.takes == []
        assert "VIDEO_ENCODER" in worker.process.log


@fault(
    "F28",
    "Weights that are truncated, an HTML page, a Git LFS pointer, end in zeros, have a flipped bit, or are missing",
    "the worker does not start; the log names the file",
)
def _(harness: Harness) -> None:
    damages: dict[str, Callable[[bytes], bytes]] = {
        "truncated": lambda content: content[:-1],
        "page": lambda content: b"<!doctype html>",
        "pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\n",
        "zeros": lambda content: content[:-100] + bytes(100),
        "flipped": lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    }
    for name, damage in damages.items():
        models = harness.folder / f"F28-{name}"
        shutil.copytree(harness.models / "sdxl", models / "sdxl")
        files = [path.relative_to(models / "sdxl").as_posix() for path in sorted((models / "sdxl").rglob("*")) if path.is_file()]
        locked = tuple(LockedFile(path, (models / "sdxl" / path).stat().st_size, sha256_of(models / "sdxl" / path)) for path in files)
        write_lock(models / "sdxl", Lock("owner/name", "0" * 40, "MIT", locked))
        damaged = next((models / "sdxl/vae").glob("*.safetensors"))
        damaged.write_bytes(damage(damaged.read_bytes()))
        _assert_does_not_start(harness, damaged.name, MODELS_DIR=str(models))
    _assert_does_not_start(harness, "no such folder", MODELS_DIR=str(harness.folder / "no-volume"))


def _assert_does_not_start(harness: Harness, word: str, **environment: str) -> None:
    with harness.dedicated_worker("sdxl", **environment) as worker:
        assert worker.process.wait() == 1
        assert worker.runpod_api.takes == []
        assert word in worker.process.log


UNUSABLE_ADAPTERS = ("evil", "zip", "huge", "other", "evil.pt", "evil.ckpt", "evil.bin")
"""Names of the files that `unusable_adapters` writes."""


@contextlib.contextmanager
def unusable_adapters(harness: Harness) -> Iterator[None]:
    """Installs LoRAs and embeddings that are not valid ones, and asserts that no pickle among them was executed."""
    executed = harness.folder / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (executed,)

    files = {"evil.safetensors": pickle.dumps(Evil()), "zip.safetensors": b"PK\x03\x04" + bytes(100), "huge.safetensors": b"\xff" * 64}
    files |= {f"evil.{suffix}": pickle.dumps(Evil()) for suffix in ("pt", "ckpt", "bin")}
    folders = [harness.models / "loras", harness.models / "textual_inversions"]
    for folder in folders:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        save_file({"some.layer.weight": torch.zeros(3, 3)}, folder / "other.safetensors")
    try:
        yield
        assert not executed.exists()
    finally:
        for folder in folders:
            shutil.rmtree(folder)


@fault(
    "F29",
    "LoRAs and embeddings that are pickles, archives or for other models, `.pt`, `.ckpt`, `.bin`",
    "rejected; no pickle is executed; the model is unchanged",
)
def _(harness: Harness) -> None:
    with unusable_adapters(harness):
        before = harness.storage.objects[harness.run_job(sdxl("F29-before"))["assets"][0]["url"]].content
        for name in UNUSABLE_ADAPTERS:
            for kind, config in (("lora", {"loras": [{"name": name}]}), ("ti", {"textual_inversions": [name]})):
                output = harness.run_job(sdxl(f"F29-{kind}-{name.replace('.', '-')}", **config))
                assert output["metadata"].get("error_code") in {"MODEL_UNAVAILABLE", "VALIDATION_ERROR"}, output["error_message"]
        assert harness.storage.objects[harness.run_job(sdxl("F29-after"))["assets"][0]["url"]].content == before


@fault(
    "F30",
    "SIGTERM during a job; SIGKILL at several points of a job, which is then redelivered",
    "SIGTERM: completed; SIGKILL: the same files, none of them truncated",
)
def _(harness: Harness) -> None:
    slow = sdxl("F30-term", prompt="slowly heron", steps=20)
    with harness.dedicated_worker("stub") as worker:
        worker.runpod_api.submit(slow)
        worker.wait_for_call()
        worker.process.terminate()
        assert worker.runpod_api.result("F30-term")["output"]["status"] == "completed"
        assert worker.process.wait() == 0
    job = sdxl("F30-kill", prompt="slowly heron", num_images=3)
    kill_points: tuple[Callable[[WorkerHandle], None], ...] = (
        lambda worker: worker.wait_for_call(),
        lambda worker: worker.wait_for_call(more_than=7),
        lambda worker: _wait_until_stored(harness, "F30-kill"),
    )
    for wait_for_kill_point in kill_points:
        with harness.dedicated_worker("stub") as worker:
            worker.runpod_api.submit(job)
            wait_for_kill_point(worker)
            worker.process.kill()
        for key in [key for key in harness.storage.objects if "/F30-kill/" in key]:
            Image.open(BytesIO(harness.storage.objects[key].content)).load()  # raises if it is truncated
    with harness.dedicated_worker("stub") as worker:
        output = worker.run_job(job)
        files = {asset["url"]: harness.storage.objects[asset["url"]].content for asset in output["assets"]}
        again = worker.run_job(job)
    assert len(files) == 3
    assert {asset["url"]: harness.storage.objects[asset["url"]].content for asset in again["assets"]} == files
    assert list(harness.outbox.glob("*.part")) == []


def _wait_until_stored(harness: Harness, job_id: str, seconds: float = 60.0) -> None:
    """Waits until the first file of a job is stored."""
    deadline = time.monotonic() + seconds
    while not any(f"/{job_id}/" in key for key in list(harness.storage.objects)):
        assert time.monotonic() < deadline, f"no file of {job_id} was stored within {seconds} s"
        time.sleep(0.005)


@contextlib.contextmanager
def filled_disk(disk: Path) -> Iterator[None]:
    """Fills a disk to the last byte. Accepts only a mount point, so that the machine's own disk is never filled."""
    assert disk.is_mount()
    filling = disk / "filling"
    with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))
    yield
    filling.unlink()


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """Mounts a RAM disk. Skips the test where the user must not mount."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("filling a disk requires the permission to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
