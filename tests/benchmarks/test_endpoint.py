"""The simulation of an endpoint: its arithmetic on cases that can be computed by hand, and its page."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.endpoint.__main__ import main
from benchmarks.endpoint.load import poisson_arrivals
from benchmarks.endpoint.page import PAGE, render
from benchmarks.endpoint.simulation import START_INTERVAL, Endpoint, JobShape, percentile, simulate
from tests.documentation.blocks import block

JOB = JobShape(before=1, gpu=10, after=2)
WARM = Endpoint(min_workers=1, max_workers=1, start=0)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_single_job_waits_for_the_cold_start_and_pays_for_it_and_for_the_idle_time(concurrency: int) -> None:
    outcome = simulate([100.0], JOB, Endpoint(concurrency, start=30, idle_timeout=5, price=0.5))
    (wait,), (latency,) = outcome.waits, outcome.latencies
    assert 31 <= wait <= 31 + START_INTERVAL
    assert latency == pytest.approx(wait + 12)
    assert outcome.billed == pytest.approx(latency + 5)
    assert outcome.cost == pytest.approx(outcome.billed * 0.5)
    assert outcome.end == pytest.approx(100 + latency + 5)
    assert (outcome.starts, outcome.busy) == (1, 10)


def test_a_warm_worker_starts_a_job_at_once() -> None:
    outcome = simulate([50.0], JOB, WARM)
    assert 1 <= outcome.waits[0] <= 1 + START_INTERVAL
    assert outcome.billed == pytest.approx(50 + outcome.latencies[0]), "an active worker is billed all the time"


def test_with_one_in_flight_the_next_job_is_taken_up_to_a_second_after_the_result() -> None:
    first, second = simulate([0.0, 0.0], JOB, WARM).waits
    assert 1 + 10 + 2 < second - first <= 1 + 10 + 2 + 1 + START_INTERVAL


def test_with_two_in_flight_the_gpu_never_waits_in_a_full_queue() -> None:
    outcome = simulate([0.0] * 50, JOB, replace(WARM, concurrency=2))
    starts = sorted(outcome.waits)
    assert [later - earlier for earlier, later in pairwise(starts)] == pytest.approx([10.0] * 49)
    assert outcome.busy_share == pytest.approx(500 / (500 + starts[0] + 2))


def test_a_worker_that_is_kept_warm_by_its_idle_timeout_serves_the_next_job() -> None:
    arrivals = [0.0, 60.0]
    assert simulate(arrivals, JOB, Endpoint(start=5, idle_timeout=60)).starts == 1
    assert simulate(arrivals, JOB, Endpoint(start=5, idle_timeout=5)).starts == 2


def test_a_job_that_waits_for_the_threshold_starts_a_worker_up_to_the_maximum() -> None:
    endpoint = Endpoint(start=5, threshold=4, max_workers=3)
    assert simulate([0.0, 0.0], JOB, endpoint).starts == 2
    assert simulate([0.0, 0.0], JOB, replace(endpoint, concurrency=2)).starts == 1, "the starting worker takes both"
    assert simulate([0.0] * 20, JOB, endpoint).starts == 3


def test_the_scaler_by_requests_starts_a_worker_for_each_multiple_of_its_threshold() -> None:
    endpoint = Endpoint(scaler="requests", threshold=2, max_workers=10)
    assert [simulate([0.0] * jobs, JOB, endpoint).starts for jobs in (1, 2, 3, 8)] == [1, 1, 2, 4]


@pytest.mark.parametrize("scaler", ["delay", "requests"])
@pytest.mark.parametrize("concurrency", [1, 2, 3])
def test_every_job_is_done_once_and_no_gpu_works_unpaid(concurrency: int, scaler: str) -> None:
    arrivals = poisson_arrivals(400, 2, burst=3, seed=7)
    outcome = simulate(arrivals, JOB, Endpoint(concurrency, scaler="requests" if scaler == "requests" else "delay"))
    assert len(outcome.waits) == len(outcome.latencies) == len(arrivals)
    assert min(outcome.waits) >= JOB.before
    assert min(outcome.latencies) >= JOB.before + JOB.gpu + JOB.after
    assert outcome.busy <= outcome.billed
    assert outcome == simulate(arrivals, JOB, Endpoint(concurrency, scaler="requests" if scaler == "requests" else "delay"))


def test_arrivals_have_the_requested_rate_and_come_in_bursts() -> None:
    arrivals = poisson_arrivals(600, 100, burst=4, seed=1)
    assert len(arrivals) == pytest.approx(60_000, rel=0.05)
    assert arrivals == sorted(arrivals)
    assert len(set(arrivals)) == len(arrivals) / 4
    assert max(arrivals) < 360_000


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([30.0, 10.0, 20.0, 40.0], share) for share in (0.25, 0.5, 0.95, 1.0)] == [10.0, 20.0, 40.0, 40.0]


def test_the_command_prints_a_row_for_each_concurrency(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--jobs-per-hour", "100", "--hours", "1", "--concurrency", "1", "2", "4"]) == 0
    load, _, *rows = capsys.readouterr().out.splitlines()
    assert "jobs in 1 hours" in load
    assert [row.split()[0] for row in rows] == ["1", "2", "4"]


def test_the_command_of_the_page_prints_two_rows(capsys: pytest.CaptureFixture[str]) -> None:
    python, minus_m, module, *arguments = block("docs/endpoint-simulation.md", ".venv/bin/python").split()
    assert (python, minus_m, module) == (".venv/bin/python", "-m", "benchmarks.endpoint")
    assert main(arguments) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[2:]] == ["1", "2"]


def test_a_load_without_jobs_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--jobs-per-hour", "0.0001", "--hours", "1"])
    assert "raise --jobs-per-hour" in capsys.readouterr().err


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render()
