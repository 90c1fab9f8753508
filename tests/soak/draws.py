"""What a job may meet: the faults of `tests/faults`, as far as any job may meet them, and how a job may end that has met one."""

from __future__ import annotations

from tests.soak import draws_a_b, draws_c, draws_d_e  # noqa: F401 - they register their faults
from tests.soak.turns import COMPLETED, DRAWS, HANDLERS, KILLED, STOPPED, Draw, Turn, calm_again, good_job

__all__ = ["COMPLETED", "DRAWS", "HANDLERS", "KILLED", "STOPPED", "Draw", "Turn", "calm_again", "good_job"]
