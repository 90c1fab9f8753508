"""Limits and times of RunPod's API, from its documentation ("Send API requests", "Operation reference"). All times are in seconds."""

from __future__ import annotations

from typing import Final

MAX_RUN_BYTES: Final = 10 * 2**20
MAX_RUNSYNC_BYTES: Final = 20 * 2**20

EXECUTION_TIMEOUT: Final = 600.0
"""From the moment a worker takes the job, unless its policy names another."""
TTL: Final = 24 * 3600.0
"""From the submission, unless the job's policy names another. The job is then removed, whatever its state."""

RUN_RETENTION: Final = 30 * 60.0
"""How long the result of `/run` is kept."""
RUNSYNC_RETENTION: Final = 60.0
"""How long the result of `/runsync` is kept."""

RUNSYNC_WAIT: Final = 90.0
"""How long `/runsync` waits for the end of a job, unless `?wait=` names another time."""
STREAM_WAIT: Final = 8.0
"""How long `/stream` waits for output. Clients give up after 10 s."""
TAKE_WAIT: Final = 20.0
"""How long a worker's request for jobs is held. The SDK repeats an empty one at once."""
STOP_WAIT: Final = 30.0
"""How long a worker's request for stop signals is held."""

MAX_ATTEMPTS: Final = 3
"""How many workers may die over a job before it fails. RunPod does not document its own number."""

WEBHOOK_ATTEMPTS: Final = 3
WEBHOOK_INTERVAL: Final = 10.0
"""Between two attempts to call a job's `webhook`."""
