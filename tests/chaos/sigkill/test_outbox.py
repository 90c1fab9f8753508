"""A worker is killed while it writes to the outbox, or while it delivers an entry of an earlier worker."""

from __future__ import annotations

import pytest

from tests.chaos.sigkill.kill_harness import KillHarness
from tests.chaos.sigkill.kill_points import REDELIVERY_KILL_POINTS, KillPoint, RedeliveryKillPoint
from tests.chaos.sigkill.scenarios import case_id, kill_and_redeliver, kill_during_outbox_delivery, kill_points_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("case", kill_points_of("stub"), ids=case_id)
def test_job_completes_after_a_kill(harness: KillHarness, case: tuple[str, KillPoint]) -> None:
    kill_and_redeliver(harness, *case)


@pytest.mark.parametrize("point", REDELIVERY_KILL_POINTS, ids=lambda point: point.slug)
def test_outbox_entry_is_delivered_after_a_kill(harness: KillHarness, point: RedeliveryKillPoint) -> None:
    kill_during_outbox_delivery(harness, point, f"{point.handler}-outbox-{REDELIVERY_KILL_POINTS.index(point)}")
