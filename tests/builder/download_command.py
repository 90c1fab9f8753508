"""`builder.download_weights` as a process, and the repository that it downloads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from shared.weights.catalogue import QWEN_BASE
from tests.doubles.fake_hub import FakeHub
from tests.doubles.processes import ROOT

TOKEN = "hf_canary_token"


def random_weights(seed: int, size: int) -> bytes:
    return save({"weight": np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)})


FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"tokens" * 50,
    "model-00001-of-00002.safetensors": random_weights(1, 2_000_000),
    "model-00002-of-00002.safetensors": random_weights(2, 1_000_000),
}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


class Download:
    """Runs the command in a subprocess."""

    def __init__(self, hub: FakeHub, home: Path) -> None:
        self.models = home / "models"
        self.folder = self.models / QWEN_BASE.name
        self._environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home / "home"),
            "HF_TOKEN": TOKEN,
            "HUGGINGFACE_CACHE": str(home / "cache"),
            "VOLUME_MODELS_DIR": str(home / "volume"),
            "NO_PROXY": "*",
            "PATH": os.environ["PATH"],
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "builder.download_weights", *(arguments or (QWEN_BASE.name,)), "--to", str(self.models)]
        return subprocess.Popen(
            command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        with self.start(*arguments) as process:
            output, errors = process.communicate(timeout=100)
        return process.returncode, output + errors

    @property
    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_blocks for path in self.folder.rglob("*") if path.is_file()) * 512  # incomplete files have holes

    def is_as_published(self, hub: FakeHub) -> bool:
        files = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()}
        return files - {".download.lock", "weights.lock.json"} == set(hub.files) and all(
            (self.folder / name).read_bytes() == content for name, content in hub.files.items()
        )
