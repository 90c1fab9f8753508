"""A job's trace: passed on in callbacks and log lines, and exported to a collector if the environment names one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from playground.callback_receiver import CannedResponse
from tests.doubles.jobs import PROMPT_CANARY, sdxl_job
from tests.doubles.otlp_receiver import OtlpReceiver
from tests.doubles.processes import ROOT, clean_environment
from tests.shared.serverless.conftest import WorkerHarness, start_worker

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
STAGES = ["validate", "generate", "encode", "upload", "callback"]


def traced(job_id: str, behavior: str = "normally") -> dict[str, Any]:
    job = sdxl_job(job_id, behavior)
    job["input"]["traceparent"] = TRACEPARENT
    return job


def sent_traceparents(harness: WorkerHarness, job_id: str) -> list[str | None]:
    return [message.headers.get("traceparent") for message in harness.receiver.messages if message.payload["job_id"] == job_id]


def log_lines(harness: WorkerHarness, job_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in harness.worker.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("job_id") == job_id]


@pytest.mark.parametrize("behavior", ["normally", "crash"])
def test_callbacks_and_log_lines_have_the_trace_of_the_request(harness: WorkerHarness, behavior: str) -> None:
    harness.runpod_api.submit(traced(f"traced-{behavior}", behavior))
    harness.runpod_api.result(f"traced-{behavior}")
    assert sent_traceparents(harness, f"traced-{behavior}") == [TRACEPARENT]
    assert {line["trace_id"] for line in log_lines(harness, f"traced-{behavior}")} == {TRACE}


def test_without_a_trace_in_the_request_nothing_names_one(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(sdxl_job("untraced"))
    harness.runpod_api.result("untraced")
    assert sent_traceparents(harness, "untraced") == [None]
    assert [line for line in log_lines(harness, "untraced") if "trace_id" in line] == []


def test_a_callback_that_waited_in_the_outbox_has_the_trace_of_its_job(own_harness: WorkerHarness) -> None:
    own_harness.receiver.respond_with([CannedResponse(400)])
    own_harness.runpod_api.submit(traced("late"))
    own_harness.runpod_api.result("late")
    own_harness.runpod_api.submit(sdxl_job("next"))  # a success, which triggers the redelivery
    own_harness.runpod_api.result("next")
    own_harness.receiver.wait_for(3)
    assert sent_traceparents(own_harness, "late") == [TRACEPARENT, TRACEPARENT]


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def exporting(collector: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHarness]:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"{collector.url}/base/",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=canary%20key",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "NO_PROXY": "*",
    }
    with start_worker(tmp_path_factory.mktemp("exporting"), **variables) as running:
        yield running


def test_a_job_is_exported_as_a_span_with_its_stages(exporting: WorkerHarness, collector: OtlpReceiver) -> None:
    exporting.runpod_api.submit(traced("exported"))
    exporting.runpod_api.result("exported")
    spans = collector.trace(TRACE)
    (job,) = [span for span in spans if span.name == "job"]
    assert (job.parent_id, job.service, job.failed) == (PARENT, "paint-worker", False)
    assert job.attributes["job.outcome"] == "completed"
    assert (job.attributes["job.id"], job.attributes["job.type"]) == ("exported", "sdxl_image_fast")
    assert sorted(span.name for span in spans if span.parent_id == job.span_id) == sorted(STAGES)
    assert sent_traceparents(exporting, "exported") == [f"00-{TRACE}-{job.span_id}-01"]
    assert all(headers["x-key"] == "canary key" for headers in collector.headers)


def test_a_failed_job_without_a_trace_begins_one_and_exports_no_message(exporting: WorkerHarness, collector: OtlpReceiver) -> None:
    exporting.runpod_api.submit(sdxl_job("fails", "crash"))
    exporting.runpod_api.result("fails")
    ((given,),) = [sent_traceparents(exporting, "fails")]
    found = re.fullmatch("00-([0-9a-f]{32})-([0-9a-f]{16})-01", given or "")
    assert found is not None
    spans = collector.trace(found[1])
    (job,) = [span for span in spans if span.name == "job"]
    (failed,) = [span for span in spans if span.name == "generate"]
    assert (job.span_id, job.parent_id, job.failed) == (found[2], "", True)
    assert (job.attributes["error.type"], failed.attributes["error.type"]) == ("INTERNAL_ERROR", "RuntimeError")
    assert sum(span.events for span in spans) == 0
    exported = b"".join(collector.bodies)
    assert PROMPT_CANARY.encode() not in exported
    assert str(ROOT).encode() not in exported


def test_the_sdk_of_opentelemetry_is_not_imported_unless_the_export_is_on() -> None:
    code = """
import sys
import shared.serverless
from shared.settings import Settings
from shared.tracing import open_tracer
open_tracer(Settings(), "worker")
open_tracer(Settings(otel_exporter_otlp_endpoint="http://127.0.0.1:1", otel_sdk_disabled=True), "worker")
sys.exit(any(name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")) for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], env=clean_environment(), cwd=ROOT, check=False).returncode == 0
