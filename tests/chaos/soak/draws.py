"""What a job may meet: the faults of `tests/chaos/faults`, as far as any job may meet them, and how a job may end that has met one."""

from __future__ import annotations

from tests.chaos.soak.turns import COMPLETED, DRAWS, HANDLERS, KILLED, STOPPED, Draw, Turn, calm_again, good_job

__all__ = ["COMPLETED", "DRAWS", "HANDLERS", "KILLED", "STOPPED", "Draw", "Turn", "calm_again", "good_job"]
