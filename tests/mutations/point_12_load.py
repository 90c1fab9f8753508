"""Many jobs at once: nobody waits for what another waits for, and nothing of one reaches another."""

from __future__ import annotations

from tests.mutations.table import Point, Protection

_SIDE_BY_SIDE = "tests/shared/jobs/test_side_by_side.py"
_IN_HAND = "tests/chaos/load/test_several_in_hand.py"
_STOPS = "tests/chaos/load/test_stops.py"
_DUPLICATES = "tests/chaos/load/test_duplicates.py"
_MANY = "tests/chaos/load/test_many_jobs.py"
_TALKS = "tests/chaos/load/test_conversations.py"

POINT = Point(
    12,
    "Load",
    (
        Protection(
            "Each job has threads of its own: uploads that do not come to an end hold up no other job.",
            "shared/jobs/execution/threads.py",
            '    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="io")\n',
            '    executor = globals().setdefault("shared", ThreadPoolExecutor(_THREADS))\n    executor.shutdown = lambda **_: None\n',
            (
                f"{_SIDE_BY_SIDE}::test_uploads_that_do_not_come_to_an_end_hold_up_no_other_job",
                f"{_IN_HAND}::test_stuck_uploads_of_all_others_do_not_hold_back_a_job_that_came_later",
            ),
        ),
        Protection(
            "A recipe says what a job did before it begins with the next.",
            "shared/jobs/lifecycle.py",
            "            done = deliverable(payload.completed(request, worker.id, assets, summary, clock, run.warnings))\n",
            "            summary = worker.recipe.summarize(request, [])\n"
            "            done = deliverable(payload.completed(request, worker.id, assets, summary, clock, run.warnings))\n",
            (f"{_SIDE_BY_SIDE}::test_what_a_job_reports_is_its_own_though_the_next_was_made_meanwhile",),
        ),
        Protection(
            "One thread does the GPU's work: no two jobs share it.",
            "shared/serverless.py",
            "    gpu = GpuThread()\n",
            "    gpu = GpuThread(4)\n",
            (
                f"{_IN_HAND}::test_pictures_are_made_for_one_job_after_the_other_and_never_for_two_at_once",
                f"{_MANY}::test_pictures_made_among_others_are_bit_for_bit_those_made_alone",
            ),
        ),
        Protection(
            "No more jobs are in hand than the operator says, however many uploads are stuck.",
            "shared/serverless.py",
            '            "concurrency_modifier": lambda _current: worker.concurrency,\n',
            '            "concurrency_modifier": lambda _current: 8,\n',
            (f"{_IN_HAND}::test_while_uploads_are_stuck_no_more_is_taken_than_the_worker_may_have_in_hand",),
        ),
        Protection(
            "A job waits for its own progress to arrive, and for no other job's.",
            "shared/serverless.py",
            'for thread in set(threading.enumerate()) - others if "_thread_target" in thread.name]',
            'for thread in threading.enumerate() if "_thread_target" in thread.name]',
            (f"{_IN_HAND}::test_progress_of_one_job_that_is_long_on_its_way_holds_back_no_other",),
        ),
        Protection(
            "A job that is stopped is stopped in all its deliveries.",
            "shared/jobs/execution/in_flight.py",
            "            for each in works:\n                each.cancel()\n",
            "            mine.cancel()\n",
            (f"{_DUPLICATES}::test_a_job_that_is_stopped_is_stopped_in_all_its_deliveries",),
        ),
        Protection(
            "A stopped job that waits for the GPU gives its place up.",
            "shared/jobs/execution/threads.py",
            "        future.cancel()  # takes effect only while it still waits for its thread\n",
            "",
            ("tests/shared/jobs/test_lifecycle.py::test_a_job_that_is_stopped_while_it_waits_for_the_gpu_never_starts",),
        ),
        Protection(
            "A stop reaches the work of its job, which ends within a step.",
            "shared/jobs/execution/threads.py",
            "        token.cancel()\n",
            "",
            (f"{_STOPS}::test_while_it_is_made",),
        ),
        Protection(
            "A job that has ended is told as it ended, though it is stopped meanwhile.",
            "shared/jobs/delivery/callbacks.py",
            "        await ended(future)\n",
            "        await future\n",
            (f"{_STOPS}::test_while_it_is_called_back_when_it_is_too_late",),
        ),
        Protection(
            "A repetition of a job is known by its webhook-id.",
            "shared/jobs/delivery/callbacks.py",
            'f"{payload.job_id}_{payload.status}"',
            'f"{payload.job_id}_{payload.status}_{id(payload)}"',
            (f"{_DUPLICATES}::test_a_job_that_is_delivered_several_times_at_once_makes_one_set_of_files",),
        ),
        Protection(
            "What a failed delivery of a job has kept is forgotten when another completes.",
            "shared/jobs/delivery/callbacks.py",
            "            self._outbox.forget(identity)\n",
            "            pass\n",
            (f"{_DUPLICATES}::test_a_delivery_that_fails_leaves_nothing_to_be_delivered_when_the_other_completes",),
        ),
        Protection(
            "Files that are kept at once get no more room together than there is.",
            "shared/jobs/delivery/outbox.py",
            '                raise OSError("the outbox is full: OUTBOX_MAX_BYTES")\n            yield\n',
            '                raise OSError("the outbox is full: OUTBOX_MAX_BYTES")\n        yield\n',
            ("tests/shared/jobs/delivery/test_outbox.py::test_what_is_kept_at_once_gets_no_more_room_together_than_there_is",),
        ),
        Protection(
            "A job that keeps its result is not disturbed by others that drop theirs.",
            "shared/jobs/delivery/outbox.py",
            "    for inside, _, names in os.walk(folder):  # which passes over folders that are gone\n        for name in names:\n",
            '    for path in folder.rglob("*"):\n        inside, names = path.parent, [path.name] * path.is_file()\n'
            "        for name in names:\n",
            ("tests/shared/jobs/delivery/test_outbox.py::test_a_job_that_keeps_its_result_is_not_disturbed_by_others_that_drop_theirs",),
            shows="FileNotFoundError",
        ),
        Protection(
            "What a job puts on the pipeline comes off again when it fails.",
            "shared/models/loras.py",
            "        for module, weight in originals.items():\n            module.weight = weight\n",
            "        pass\n",
            (f"{_MANY}::test_a_job_that_fails_leaves_the_pictures_of_its_neighbours_as_they_are",),
        ),
        Protection(
            "A piece of a stream is what its own text has grown by.",
            "shared/jobs/streaming/text.py",
            "if piece := self._text[read:]:",
            "if piece := self._text:",
            (f"{_TALKS}::test_sixteen_conversations_at_once_are_each_what_they_are_alone",),
        ),
    ),
)
