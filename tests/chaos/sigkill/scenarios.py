"""What the crash tests have in common: run a job, kill its worker, run the job again."""

from __future__ import annotations

from tests.chaos.sigkill.kill_harness import KillHarness
from tests.chaos.sigkill.kill_points import KILL_POINTS, KillPoint, KillScenario, RedeliveryKillPoint


def kill_points_of(*handlers: str) -> list[tuple[str, KillPoint]]:
    """Returns each handler with each of its kill points."""
    return [(handler, point) for handler in handlers for point in KILL_POINTS if handler in point.handlers]


def case_id(case: tuple[str, KillPoint]) -> str:
    """Returns the test id of a handler and a kill point."""
    handler, point = case
    return f"{handler}-{point.slug}"


def kill_and_redeliver(harness: KillHarness, handler: str, point: KillPoint) -> None:
    """Kills a worker at a point of a job, checks what is stored and named by then, and runs the job in another worker."""
    job_id = f"{handler}-{KILL_POINTS.index(point)}"
    scenario = KillScenario(harness, harness.live_worker(handler), harness.make_job(handler, job_id, multiple_images=point.multiple_images))
    point.arrange(scenario)
    scenario.worker.runpod_api.submit(scenario.job)
    harness.wait_until_killed(scenario.worker)
    assert scenario.worker.runpod_api.results(job_id) == [], "without a result RunPod redelivers the job"
    harness.assert_named_files_intact(job_id)
    harness.assert_redelivered_job_completes(scenario.job, handler)


def kill_during_outbox_delivery(harness: KillHarness, point: RedeliveryKillPoint, job_id: str) -> None:
    """A worker puts a result into the outbox, the next one is killed while it delivers the entry, and a third delivers it."""
    first = harness.live_worker(point.handler)
    scenario = KillScenario(harness, first, harness.make_job(point.handler, job_id))
    scenario.fail_callbacks() if point.handler == "chat" else scenario.fail_uploads()
    output = first.run_job(scenario.job)
    first.process.kill()
    harness.clear_faults()
    point.arrange(harness)
    harness.wait_until_killed(harness.live_worker(point.handler))
    harness.assert_named_files_intact(job_id)
    assert harness.redeliver() == 0
    harness.assert_named_files_intact(job_id)
    harness.assert_one_webhook_id(job_id)
    assert set(output["metadata"].get("assets_pending") or []) <= set(harness.storage.objects)
    harness.assert_redelivered_job_completes(scenario.job, point.handler)
