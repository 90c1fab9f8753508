"""A job ends by its deadline, whatever its work does."""

from __future__ import annotations

from tests.mutations.table import Point, Protection

_ENDS = "tests/shared/serverless/test_ends_of_a_worker.py::"
_HANGS = f"{_ENDS}test_work_that_never_returns_is_answered_by_the_deadline_and_the_worker_ends"
_STANDS_STILL = f"{_ENDS}test_a_worker_whose_interpreter_stands_still_ends_all_the_same"

POINT = Point(
    4,
    "Hangs",
    (
        Protection(
            "Work looks at its job's deadline between its steps.",
            "shared/jobs/execution/cancel.py",
            "        if time.monotonic() > self._ends:",
            "        if False:",
            ("tests/shared/jobs/test_lifecycle.py::test_a_deadline_that_passes_is_a_failure_of_its_own",),
        ),
        Protection(
            "The deadline is shorter than RunPod's own for this job, which would tell the caller nothing.",
            "shared/serverless.py",
            "        return min(timeout, 0.95 * milliseconds / 1000)",
            "        return timeout",
            ("tests/shared/serverless/test_progress_and_stop.py::test_a_job_that_takes_longer_than_runpod_allows_says_so_itself",),
            shows="KeyError: 'error_code'",
        ),
        Protection(
            "Each handler may have a deadline of its own.",
            "shared/settings.py",
            "        return own if own is not None else self.job_timeout",
            "        return self.job_timeout",
            (f"{_ENDS}test_each_handler_may_have_a_limit_of_its_own",),
        ),
        Protection(
            "Work that does not end is not waited for.",
            "shared/jobs/execution/watchdog.py",
            "timeout=token.left + grace)",
            "timeout=None)",
            (_HANGS,),
        ),
        Protection(
            "A worker in which work hangs is replaced.",
            "shared/jobs/execution/watchdog.py",
            'does not answer; the worker is replaced.", replaces_worker=True)',
            'does not answer; the worker is replaced.")',
            (_HANGS,),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "A GPU on which work hangs is given up, and the worker with it.",
            "shared/jobs/lifecycle.py",
            "        worker.gpu.condemn()",
            "        pass",
            (_HANGS,),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "What was stored too late does not complete its job.",
            "shared/jobs/assets.py",
            "    if not parcel.keeps:\n        token.check()\n",
            "",
            ("tests/shared/jobs/test_lifecycle.py::test_the_deadline_counts_for_uploads_too",),
        ),
        Protection(
            "An upload that fails because the job's time is over says that.",
            "shared/jobs/assets.py",
            "    except UploadError:\n        token.check()\n        raise",
            "    except UploadError:\n        raise",
            ("tests/shared/jobs/test_lifecycle.py::test_an_upload_that_fails_because_the_time_is_over_says_that",),
        ),
        Protection(
            "The C library's timer ends an interpreter that stands still.",
            "shared/jobs/execution/watchdog.py",
            "                self._arm(min(self._deadlines.values(), default=None))",
            "                pass",
            (_STANDS_STILL,),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "That timer writes no line of code into the log.",
            "shared/jobs/execution/watchdog.py",
            ", exit=True, file=self._nowhere)",
            ", exit=True)",
            (_STANDS_STILL, "tests/shared/jobs/execution/test_watchdog.py::test_a_cleaning_up_that_hangs_is_ended_by_the_timer"),
        ),
        Protection(
            "It is taken off when the job is answered.",
            "shared/jobs/execution/watchdog.py",
            "            self._note(job, None)",
            "            pass",
            ("tests/shared/jobs/execution/test_watchdog.py::test_the_timer_is_taken_off_when_the_job_is_answered",),
        ),
    ),
)
