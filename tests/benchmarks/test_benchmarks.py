"""Benchmarks run on small inputs and print their measurements."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import encoding, full_queue, gpu, sdxl_speed, start, upload_overlap


@pytest.mark.slow
def test_sdxl_speed_compares_this_worker_with_diffusers(tiny_models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sdxl_speed.main([str(tiny_models / "sdxl"), "--side", "64", "--steps", "10", "--batches", "1", "3", "--rounds", "1"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("64 × 64, 10 steps, ")
    implementations = [line.partition(", ")[2].split("  ")[0].strip() for line in lines]
    assert implementations == ["this worker", "diffusers"] * 2
    assert all("s per image" in line and "% of the rate" in line for line in lines)


@pytest.mark.slow
def test_encoding_compares_files_of_the_same_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert encoding.main(["--rounds", "1", "--frames", "5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["png", "mp4_quality_25", "mp4_quality_18"]
    assert found["png"]["psnr"] == 0.0
    assert found["png"]["size"] < 1.15  # of pictures of the full size: small ones take up to 1.18
    assert found["mp4_quality_18"]["psnr"] > found["mp4_quality_25"]["psnr"] > -2.0


@pytest.mark.nightly
@pytest.mark.slow
def test_the_command_for_gpus_runs_each_measurement_on_small_models_anywhere(capfd: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--small"]) == 0
    printed = capfd.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("==")] == ["== SDXL", "== WAN", "== chat"]


@pytest.mark.slow
def test_a_job_takes_at_least_as_long_as_the_longer_of_encoding_and_uploading(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["upload_overlap", "1"])
    assert upload_overlap.main() == 0
    slower, faster = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert slower["uploading"] == pytest.approx(10 * slower["encoding"])
    assert faster["uploading"] == pytest.approx(faster["encoding"] / 3)
    assert slower["job"] > slower["uploading"]


@pytest.mark.slow
def test_full_queue_runs_its_jobs_in_the_sdk(capsys: pytest.CaptureFixture[str]) -> None:
    assert full_queue.main(["--jobs", "3", "--seconds", "0.3", "--concurrency", "0"]) == 0
    (measured,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (measured["seconds"], measured["concurrency"]) == (0.3, 0)
    assert 0 < measured["share"] <= 1
    assert measured["around"] > 0


@pytest.mark.nightly
@pytest.mark.slow
def test_start_is_measured_in_multiples_of_the_import_of_torch(tiny_models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start.main([str(tiny_models), "--rounds", "1", "--handlers", "chat"]) == 0
    (measured,) = json.loads(capsys.readouterr().out).values()
    assert measured["wall"] > 1
    assert measured["processor"] > 1
