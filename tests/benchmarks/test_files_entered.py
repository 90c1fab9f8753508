"""A plain SDXL job enters few source files, and none of features that it does not request."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.files_entered import files_entered

BUDGET = 38


@pytest.fixture(scope="module")
def files(tiny_models: Path) -> list[str]:
    return files_entered(tiny_models)


def test_a_plain_sdxl_job_stays_within_the_budget_of_files(files: list[str]) -> None:
    assert len(files) <= BUDGET, files


def test_features_that_are_not_requested_are_not_entered(files: list[str]) -> None:
    assert [file for file in files if file.startswith(("handlers/sdxl/features/", "handlers/sdxl/postprocess/"))] == []
