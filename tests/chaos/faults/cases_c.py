"""Faults of the GPU, of models and of the machine."""

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
from tests.chaos.faults.registry import fault
from tests.chaos.faults.world import World, sdxl, wan
from tests.doubles.storage_server import fails_with


@fault(
    "F23", "The GPU is lost: illegal access, ECC, launch failure, each as torch's error and as a text", "answered; the worker ends with 1"
)
def _(world: World) -> None:
    for index, what in enumerate(("illegal access", "ecc", "launch failure", "lost by text")):
        with world.own_worker("paint") as worker:
            worker.sabotage("denoiser", what)
            output = worker.do(sdxl(f"F23-{index}"))
            assert output["metadata"].get("error_code") == "DEVICE_ERROR"
            assert worker.done[-1].body["stopPod"] is True
            worker.gateway.submit(sdxl(f"F23-{index}-for-another"))
            assert worker.process.wait() == 1
            assert worker.gateway.results(f"F23-{index}-for-another") == []


@fault("F21", "`torch.OutOfMemoryError` while denoising, once and always", "once: completed, and the remedy named; always: `OOM_ERROR`")
def _(world: World) -> None:
    worker = world.worker()
    worker.sabotage("denoiser", "oom")
    output = world.do(sdxl("F21-once"))
    assert output["status"] == "completed"
    assert any("Memory did not suffice" in warning for warning in output["metadata"]["warnings"])
    worker.sabotage("denoiser", "oom", times=1000)
    output = world.do(sdxl("F21-always"))
    assert (output["metadata"].get("error_code"), output["metadata"].get("retryable")) == ("OOM_ERROR", True)
    assert len(output["metadata"]["warnings"]) >= 2, "what was tried"


@fault("F22", "`torch.OutOfMemoryError` in the VAE alone", "decoded in tiles; nothing is denoised again", handlers=("wan",))
def _(world: World) -> None:
    for handler, job in (("sdxl", sdxl("F22-sdxl")), ("wan", wan("F22-wan"))):
        worker = world.worker(handler)
        worker.sabotage("decoder", "oom", times=2)
        before = worker.calls("denoiser")
        output = world.do(job, handler=handler)
        assert output["status"] == "completed"
        assert any("in tiles" in warning for warning in output["metadata"]["warnings"])
        samples = 2 if handler == "wan" else 1  # WAN's guidance is a call of its own
        assert worker.calls("denoiser") - before == samples * output["assets"][0]["metadata"]["steps"]


@fault(
    "F25", "Latents that are NaN; a decoder that draws NaN, or one colour", "`GENERATION_ERROR`, never a black picture", handlers=("wan",)
)
def _(world: World) -> None:
    for handler, make in (("sdxl", sdxl), ("wan", wan)):
        for index, (where, what) in enumerate((("denoiser result", "nan"), ("decoder result", "nan"), ("decoder result", "black"))):
            world.worker(handler).sabotage(where, what, times=100)
            output = world.do(make(f"F25-{handler}-{index}"), handler=handler)
            assert (output["metadata"].get("error_code"), output["metadata"].get("retryable")) == ("GENERATION_ERROR", True)
            assert output["assets"] == []
            world.calm()


@fault(
    "F24",
    "Work that never comes back, and an interpreter that stands still",
    "answered at the deadline, called back; the worker ends with 1",
)
def _(world: World) -> None:
    with world.own_worker("paint", JOB_TIMEOUT="1.5", JOB_GRACE="0.5") as worker:
        worker.sabotage("denoiser", "hang")
        output = worker.do(sdxl("F24", prompt="paint heron"))
        assert (output["metadata"].get("error_code"), output["metadata"].get("retryable")) == ("JOB_TIMEOUT", True)
        assert worker.process.wait() == 1
    limits = {"JOB_TIMEOUT": "0.5", "JOB_GRACE": "0.5", "UPLOAD_DEADLINE": "0.5", "CALLBACK_DEADLINE": "0.5"}
    with world.own_worker("paint", **limits) as worker:
        worker.gateway.submit(sdxl("F24-freezes", prompt="freeze heron"))
        assert worker.process.wait() == 1


@fault(
    "F26",
    "A disk that is full: while a clip is written, and while a result is kept",
    "failed with a code; nothing stays; the next clip is written",
    handlers=("wan",),
)
def _(world: World) -> None:
    with (
        small_disk(world.folder / "disk", "260m") as disk,
        small_disk(world.folder / "spool", "1m") as spool,
        world.own_worker("wan", TMPDIR=str(disk), OUTBOX_DIR=str(spool / "outbox")) as worker,
    ):
        with filled(disk):
            output = worker.do(wan("F26-written"))
            assert output["metadata"].get("error_code") == "INTERNAL_ERROR"
        assert worker.do(wan("F26-then"))["status"] == "completed"
        world.storage.outage = fails_with(503)
        with filled(spool):
            output = worker.do(wan("F26-kept"))
        assert output["metadata"].get("error_code") == "UPLOAD_ERROR"
        assert "assets_pending" not in output["metadata"], "nothing is promised that is not kept"
        world.storage.recover()
        assert list(disk.iterdir()) == []
        assert list((spool / "outbox").iterdir()) == []


@fault(
    "F27",
    "A video encoder that fails in the middle; one that this machine does not have",
    "no part of a clip is stored; no start",
    handlers=("wan",),
)
def _(world: World) -> None:
    before = set(world.storage.objects)
    world.worker("wan").sabotage("encoder", "fails")
    output = world.do(wan("F27"), handler="wan")
    assert output["metadata"].get("error_code") == "INTERNAL_ERROR"
    assert set(world.storage.objects) == before
    with world.own_worker("wan", VIDEO_ENCODER="h264_nvenc") as worker:
        assert worker.process.wait() == 1
        assert worker.gateway.takes == []
        assert "VIDEO_ENCODER" in worker.process.log


@fault(
    "F28",
    "Weights that are cut off, are a page or a pointer, end in zeros, have a flipped bit, or are missing",
    "no start, and the file is named",
)
def _(world: World) -> None:
    damages: dict[str, Callable[[bytes], bytes]] = {
        "cut": lambda content: content[:-1],
        "page": lambda content: b"<!doctype html>",
        "pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\n",
        "zeros": lambda content: content[:-100] + bytes(100),
        "flipped": lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    }
    for name, damage in damages.items():
        models = world.folder / f"F28-{name}"
        shutil.copytree(world.models / "sdxl", models / "sdxl")
        files = [path.relative_to(models / "sdxl").as_posix() for path in sorted((models / "sdxl").rglob("*")) if path.is_file()]
        locked = tuple(LockedFile(path, (models / "sdxl" / path).stat().st_size, sha256_of(models / "sdxl" / path)) for path in files)
        write_lock(models / "sdxl", Lock("owner/name", "0" * 40, "MIT", locked))
        damaged = next((models / "sdxl/vae").glob("*.safetensors"))
        damaged.write_bytes(damage(damaged.read_bytes()))
        _does_not_start(world, damaged.name, MODELS_DIR=str(models))
    _does_not_start(world, "no such folder", MODELS_DIR=str(world.folder / "no-volume"))


def _does_not_start(world: World, word: str, **environment: str) -> None:
    with world.own_worker("sdxl", **environment) as worker:
        assert worker.process.wait() == 1
        assert worker.gateway.takes == []
        assert word in worker.process.log


STRANGE = ("evil", "zip", "huge", "other", "evil.pt", "evil.ckpt", "evil.bin")
"""Names of `strange_files`."""


@contextlib.contextmanager
def strange_files(world: World) -> Iterator[None]:
    """LoRAs and embeddings that are none. What of them runs would be seen at the end."""
    ran = world.folder / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    strange = {"evil.safetensors": pickle.dumps(Evil()), "zip.safetensors": b"PK\x03\x04" + bytes(100), "huge.safetensors": b"\xff" * 64}
    strange |= {f"evil.{ending}": pickle.dumps(Evil()) for ending in ("pt", "ckpt", "bin")}
    folders = [world.models / "loras", world.models / "textual_inversions"]
    for folder in folders:
        folder.mkdir()
        for name, content in strange.items():
            (folder / name).write_bytes(content)
        save_file({"some.layer.weight": torch.zeros(3, 3)}, folder / "other.safetensors")
    try:
        yield
        assert not ran.exists()
    finally:
        for folder in folders:
            shutil.rmtree(folder)


@fault(
    "F29",
    "LoRAs and embeddings that are pickles, archives or of other models, `.pt`, `.ckpt`, `.bin`",
    "refused, nothing of them runs, the model is as before",
)
def _(world: World) -> None:
    with strange_files(world):
        before = world.storage.objects[world.do(sdxl("F29-before"))["assets"][0]["url"]].content
        for name in STRANGE:
            for kind, config in (("lora", {"loras": [{"name": name}]}), ("ti", {"textual_inversions": [name]})):
                output = world.do(sdxl(f"F29-{kind}-{name.replace('.', '-')}", **config))
                assert output["metadata"].get("error_code") in {"MODEL_UNAVAILABLE", "VALIDATION_ERROR"}, output["error_message"]
        assert world.storage.objects[world.do(sdxl("F29-after"))["assets"][0]["url"]].content == before


@fault(
    "F30",
    "SIGTERM in the middle of a job; SIGKILL at several moments, and the job once more elsewhere",
    "finished and answered; the same files, none of them by half",
)
def _(world: World) -> None:
    slow = sdxl("F30-term", prompt="slowly heron", steps=20)
    with world.own_worker("paint") as worker:
        worker.gateway.submit(slow)
        worker.wait_for_call()
        worker.process.terminate()
        assert worker.gateway.result("F30-term")["output"]["status"] == "completed"
        assert worker.process.wait() == 0
    job = sdxl("F30-kill", prompt="slowly heron", num_images=3)
    for delay in (0.0, 0.4, 0.6):
        with world.own_worker("paint") as worker:
            worker.gateway.submit(job)
            worker.wait_for_call()
            time.sleep(delay)
            worker.process.kill()
        for key in [key for key in world.storage.objects if "/F30-kill/" in key]:
            Image.open(BytesIO(world.storage.objects[key].content)).load()  # whole, or not there
    with world.own_worker("paint") as worker:
        output = worker.do(job)
        files = {asset["url"]: world.storage.objects[asset["url"]].content for asset in output["assets"]}
        again = worker.do(job)
    assert len(files) == 3
    assert {asset["url"]: world.storage.objects[asset["url"]].content for asset in again["assets"]} == files
    assert list(world.outbox.glob("*.part")) == []


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """With not a byte left. Only a small disk of its own is filled, never the machine's."""
    assert disk.is_mount()
    filling = disk / "filling"
    with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))
    yield
    filling.unlink()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of its own, in memory."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("only who may mount can fill a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
