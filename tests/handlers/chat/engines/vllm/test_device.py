"""The device of a vLLM worker, as the driver reports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.chat.engines.vllm.device import describe_gpu


@pytest.mark.parametrize(
    ("script", "reported"),
    [
        (
            "echo 'NVIDIA L40S, 41012, 46068'; echo 'NVIDIA L40S, 1, 46068'",
            {"device": "NVIDIA L40S", "vram_used": 41012, "vram_total": 46068},
        ),
        ("echo 'No devices were found'", {}),
        ("exit 9", {}),
        (None, {"device": "cpu", "vram_used": 0, "vram_total": 0}),
    ],
)
def test_the_first_gpu_is_reported_with_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, reported: dict[str, object]
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_gpu() == reported
