"""The exit code of a soak test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.soak.report import Report, print_report
from tests.chaos.soak.resources import ResourceSamples


def report(**changes: Any) -> Report:
    steady = ResourceSamples([10**8] * 200, [17] * 200)
    return replace(Report(200, {"no fault": 200}, resources={"sdxl": steady}, warm=True), **changes)


def test_it_is_0_when_every_job_survived_and_nothing_grows(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_report(report()) == 0
    assert "survived 200/200, lost 0" in capsys.readouterr().out


def test_it_is_1_when_a_job_was_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_report(report(lost={"soak-3": "no final callback"})) == 1
    assert "soak-3: no final callback" in (printed := capsys.readouterr().out)
    assert "lost 1" in printed


def test_it_is_1_when_a_job_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_report(report(failures={"soak-3": "sdxl, no fault: AssertionError"})) == 1
    assert "survived 199/200" in capsys.readouterr().out


@pytest.mark.parametrize("resource", ["memory", "open_files"])
def test_it_is_1_when_a_worker_grows(resource: str, capsys: pytest.CaptureFixture[str]) -> None:
    samples = {"memory": [10**8] * 200, "open_files": [17] * 200}
    samples[resource] = [before + 2**20 * job for job, before in enumerate(samples[resource])]
    assert print_report(report(resources={"sdxl": ResourceSamples(samples["memory"], samples["open_files"])})) == 1
    assert capsys.readouterr().out.count("GROWS") == 1


def test_growth_is_reported_with_the_job_that_took_most(capsys: pytest.CaptureFixture[str]) -> None:
    memory = [10**8] * 150 + [10**8 + 6 * 2**20] * 50
    assert print_report(report(resources={"sdxl": ResourceSamples(memory, [17] * 200)})) == 1
    assert "most of it by its job 151: +6.00 MiB" in capsys.readouterr().out
