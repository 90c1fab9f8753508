"""A worker whose GPU is lost answers, takes no job any more, and ends."""

from __future__ import annotations

from tests.mutations.table import Point, Protection

_ENDS = "tests/shared/serverless/test_ends_of_a_worker.py::"
_ROW = "tests/shared/test_errors.py::test_an_exception_of_another_library_has_its_row"

POINT = Point(
    3,
    "Lost device",
    (
        Protection(
            "Every accelerator error is a lost GPU, but lack of memory and a wrong argument.",
            "shared/errors.py",
            "        return code not in _RECOVERABLE_CUDA_CODES",
            "        return False",
            (_ROW, f"{_ENDS}test_a_worker_that_lost_its_gpu_answers_and_takes_no_further_job"),
            shows="KeyError: 'stopPod'",
        ),
        Protection(
            "A wrong argument does not cost the worker.",
            "shared/errors.py",
            "_RECOVERABLE_CUDA_CODES = frozenset({1, 2})",
            "_RECOVERABLE_CUDA_CODES: frozenset[int] = frozenset()",
            (_ROW,),
        ),
        Protection(
            "The same texts in plain errors mean the same.",
            "shared/errors.py",
            '    return isinstance(error, RuntimeError) and said and "CUDA error: invalid argument" not in text',
            "    return False",
            (_ROW,),
        ),
        Protection(
            "RunPod is told to replace the worker, and gives it no further job.",
            "shared/serverless.py",
            '            self.config["refresh_worker"] = True\n',
            "",
            (f"{_ENDS}test_a_worker_that_lost_its_gpu_answers_and_takes_no_further_job",),
            shows="KeyError: 'stopPod'",
        ),
        Protection(
            "Work that waits for the lost GPU does not begin.",
            "shared/jobs/execution/gpu.py",
            "        if self.lost:\n            raise _lost()\n        try:",
            "        try:",
            ("tests/shared/jobs/execution/test_gpu.py::test_what_waits_for_a_gpu_that_is_lost_meanwhile_does_not_begin",),
        ),
        Protection(
            "The thread itself notices the loss, before the next piece of work.",
            "shared/jobs/execution/gpu.py",
            '            if classify(error, "").replaces_worker:',
            "            if False:",
            ("tests/shared/jobs/execution/test_gpu.py::test_what_waits_for_a_gpu_that_is_lost_meanwhile_does_not_begin",),
        ),
        Protection(
            "A job that comes to a lost GPU is answered, and not with a failure of the program.",
            "shared/jobs/execution/gpu.py",
            "        if self.lost:\n            raise _lost()\n        future",
            "        future",
            ("tests/shared/jobs/execution/test_gpu.py::test_a_job_that_comes_later_is_refused",),
            shows="RuntimeError",
        ),
        Protection(
            "The worker ends with a code that is not 0.",
            "shared/serverless.py",
            "            end_process()  # with a code that says so, and without waiting for threads that may never end",
            "            pass",
            (f"{_ENDS}test_a_worker_that_lost_its_gpu_answers_and_takes_no_further_job",),
        ),
        Protection(
            "It ends although the SDK waits for what does not end.",
            "shared/serverless.py",
            "            self._departure.begin()\n",
            "",
            (f"{_ENDS}test_work_that_never_returns_is_answered_by_the_deadline_and_the_worker_ends",),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "It ends by a timer although cleaning up hangs.",
            "shared/jobs/execution/watchdog.py",
            "            self._arm(time.monotonic() + self._slack)\n",
            "",
            ("tests/shared/jobs/execution/test_watchdog.py::test_a_cleaning_up_that_hangs_is_ended_by_the_timer",),
        ),
        Protection(
            "Its helper, which tells RunPod that it lives, ends with it.",
            "shared/jobs/execution/watchdog.py",
            "        child.kill()",
            "        pass",
            (f"{_ENDS}test_work_that_never_returns_is_answered_by_the_deadline_and_the_worker_ends",),
        ),
    ),
)
