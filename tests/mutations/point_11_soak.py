"""Many jobs, faults by chance, workers that are killed: what is lost or grows is seen, and nothing of it happens."""

from __future__ import annotations

from tests.mutations.table import Point, Protection

POINT = Point(
    11,
    "Soak, and workers that are killed",
    (
        Protection(
            "A job that was lost is a fault.",
            "tests/chaos/soak/__main__.py",
            "or len(report.lost) > 0",
            "",
            ("tests/chaos/soak/test_audit.py::test_it_ends_with_1_when_something_was_lost",),
        ),
        Protection(
            "A job whose end nobody was told is lost.",
            "tests/chaos/soak/audit.py",
            "    if not payloads:\n        return",
            "    if not payloads and False:\n        return",
            ("tests/chaos/soak/test_audit.py::test_a_job_of_which_nobody_was_told_the_end_is_lost",),
        ),
        Protection(
            "A job of which a named file is not whole is lost.",
            "tests/chaos/soak/audit.py",
            "if not is_whole(world, key, size)",
            "if False",
            (
                "tests/chaos/soak/test_audit.py::test_a_job_of_which_a_file_is_not_there_as_it_was_is_lost",
                "tests/chaos/soak/test_audit.py::test_a_file_with_other_bytes_is_not_what_was_stored",
                "tests/chaos/soak/test_soak.py::test_a_job_that_was_stored_and_is_no_more_is_lost",
            ),
            shows="KeyError: 'a'",
        ),
        Protection(
            "Growth is a fault.",
            "tests/chaos/soak/slopes.py",
            "return self.low > 0.0 and self.per_100 > material",
            "return False",
            (
                "tests/chaos/soak/test_audit.py::test_it_ends_with_1_when_something_grows",
                "tests/chaos/soak/test_soak.py::test_a_worker_that_keeps_what_it_should_give_back_is_seen",
            ),
        ),
        Protection(
            "When the chat engine fails while it reads a prompt, those who are read are told.",
            "handlers/chat/engines/transformers/batch.py",
            "            read += self._read(self._readings[0])\n            self._readings.popleft()\n",
            "            read += self._read(self._readings.popleft())\n",
            (
                "tests/handlers/chat/engines/transformers/test_engine_shutdown.py::test_when_the_engine_fails_while_it_reads_those_who_are_read_are_told",
            ),
        ),
        Protection(
            "A clip that could not be written does not stay open.",
            "shared/media/videos.py",
            'with av.open(_Sink(file), "w", format=format, options=dict(options), io_open=read_again) as container:',
            'with av.open(str(path), "w", format=format, options=dict(options)) as container:',
            ("tests/shared/media/test_videos.py::test_a_clip_that_could_not_be_written_does_not_stay_open",),
        ),
        Protection(
            "A job that is done again stores over what a killed worker had stored of it.",
            "shared/storage/supabase.py",
            '"upsert": "true"',
            '"upsert": "false"',
            ("tests/chaos/killed/test_pictures.py::test_killed_when[sdxl-it-has-stored-one-of-several-files]",),
        ),
    ),
)
