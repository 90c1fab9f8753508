"""docs/performance.md is what the benchmarks' results say, and the figures that other pages quote are its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.performance_page import PUBLISHED, cuda_gigabytes, render, sdxl_estimate, sdxl_tflop
from benchmarks.report import PAGE, RESULTS

ROOT = Path(__file__).parents[1]
SETUP = json.loads(RESULTS.read_text(encoding="utf-8"))["setup"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEPLOY = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")


def test_the_page_is_rendered_from_the_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(json.loads(RESULTS.read_text(encoding="utf-8")))


def test_what_the_readme_says_of_set_up_was_measured() -> None:
    assert f"{SETUP['bytes'] / 1e9:.1f} GB of packages" in README
    assert f"torch's build for CUDA {cuda_gigabytes(SETUP, 'cu130'):.0f} GB more" in README
    assert f"That took {SETUP['seconds'] / 60:.0f} minutes" in README


def test_the_layer_of_torch_for_cuda_is_the_measured_one_and_what_its_packages_have_more() -> None:
    ((cpu, cuda),) = re.findall(r"^\| torch, transformers.* \| ([\d,]+) MB \| ([\d.]+) GB \|$", DEPLOY, flags=re.MULTILINE)
    assert f"{int(cpu.replace(',', '')) / 1e3 + cuda_gigabytes(SETUP, 'cu128'):.1f}" == cuda


@pytest.mark.parametrize("card", ["RTX 3090", "RTX 4090"])
def test_the_times_of_the_first_job_are_the_estimates_of_the_page(card: str) -> None:
    assert f"{sdxl_estimate(card):.0f} s on a {card.removeprefix('RTX ')}" in DEPLOY
    assert f"| {card} | {PUBLISHED[card][0]} steps: {PUBLISHED[card][1]:.2f} s | {sdxl_estimate(card):.0f} s |" in PAGE.read_text("utf-8")


def test_the_cost_table_assumes_more_than_the_estimate_of_a_slower_card() -> None:
    (assumed,) = re.findall(r"^\| seconds each \| (\d+) \|", DEPLOY, flags=re.MULTILINE)
    assert f"assumes {assumed} s for a job" in DEPLOY
    assert float(assumed) > max(sdxl_estimate(card) for card in PUBLISHED)


def test_a_step_takes_the_same_operations_whatever_their_number() -> None:
    assert sdxl_tflop(26) - sdxl_tflop(25) == pytest.approx(13.52)
