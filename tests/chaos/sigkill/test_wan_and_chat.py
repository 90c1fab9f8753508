"""A WAN or chat worker is killed at each kill point of a job."""

from __future__ import annotations

import pytest

from tests.chaos.sigkill.kill_harness import KillHarness
from tests.chaos.sigkill.kill_points import KillPoint
from tests.chaos.sigkill.scenarios import case_id, kill_and_redeliver, kill_points_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("case", kill_points_of("wan", "chat"), ids=case_id)
def test_job_completes_after_a_kill(harness: KillHarness, case: tuple[str, KillPoint]) -> None:
    kill_and_redeliver(harness, *case)
