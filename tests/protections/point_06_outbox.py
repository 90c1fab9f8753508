"""What storage or a receiver did not take is kept whole, once, within bounds, and delivered later."""

from __future__ import annotations

from tests.protections.table import Point, Protection

_KEPT = "tests/jobs/test_outbox.py::"
_FILES = "tests/storage/test_files.py::"
_AWAY = "tests/serverless/test_outbox.py::"
_PICTURES_ARE_KEPT = f"{_AWAY}test_with_storage_away_for_all_of_a_job_its_pictures_are_kept_and_the_next_start_delivers_them"
_PAYLOAD_IS_KEPT = f"{_AWAY}test_with_the_receiver_away_the_payload_is_kept_and_a_command_delivers_it"

POINT = Point(
    6,
    "Outbox",
    (
        Protection(
            "What is kept is sealed with its payload before the job ends.",
            "shared/jobs/parcel.py",
            "            self._seal(self._draft, payload)",
            "            pass",
            (_PICTURES_ARE_KEPT,),
            shows="TimeoutError",
        ),
        Protection(
            "What was not sealed has a name by which it can be cleared away.",
            "shared/jobs/outbox.py",
            "{secrets.token_hex(4)}{_PART}",
            "{secrets.token_hex(4)}",
            (f"{_KEPT}test_what_a_crash_left_half_written_is_cleared_away_after_a_day",),
            shows="ValueError",
        ),
        Protection(
            "An entry that is taken away is none from the first moment on, and a crash leaves nothing that counts.",
            "shared/jobs/outbox.py",
            "shutil.rmtree(entry.rename(entry.with_name(entry.name + _PART)), ignore_errors=True)",
            "shutil.rmtree(entry, ignore_errors=True)",
            (f"{_FILES}test_an_entry_that_is_taken_away_is_none_before_the_first_file_of_it_is_gone",),
        ),
        Protection(
            "What else lies in the folder is left alone.",
            "shared/jobs/outbox.py",
            " if _NAME.fullmatch(path.name)]",
            "]",
            (f"{_KEPT}test_what_else_lies_there_is_left_alone",),
            shows="IndexError",
        ),
        Protection(
            "A file has its name only when it is on the disk.",
            "shared/storage/files.py",
            "            os.fsync(file.fileno())\n",
            "",
            (f"{_FILES}test_a_file_takes_its_place_when_it_is_on_the_disk",),
        ),
        Protection(
            "A file is written beside its place and then takes it.",
            "shared/storage/files.py",
            '        with part.open("xb") as file:',
            '        with path.open("wb") as file, part.open("xb"):',
            ("tests/storage/test_local_disk.py::test_a_failure_leaves_the_old_object_and_nothing_else",),
        ),
        Protection(
            "What could not be written whole leaves nothing beside its place.",
            "shared/storage/files.py",
            "        part.unlink(missing_ok=True)",
            "        pass",
            ("tests/storage/test_local_disk.py::test_a_disk_that_is_full_keeps_the_old_object_and_nothing_else",),
        ),
        Protection(
            "The names in an entry are on the disk before it counts.",
            "shared/jobs/outbox.py",
            "            sync_folder(part)\n",
            "",
            (f"{_FILES}test_an_entry_of_the_outbox_counts_when_all_of_it_is_on_the_disk",),
        ),
        Protection(
            "That it counts is on the disk before its job is answered.",
            "shared/jobs/outbox.py",
            "            sync_folder(part.parent)\n",
            "",
            (f"{_FILES}test_an_entry_of_the_outbox_counts_when_all_of_it_is_on_the_disk",),
        ),
        Protection(
            "A damaged file in an entry is not delivered as if it were whole.",
            "shared/jobs/entry.py",
            "whole = all(_sha256(folder / file.name) == file.sha256 for file in entry.files)",
            "whole = True",
            (f"{_KEPT}test_a_file_that_was_damaged_meanwhile_is_not_delivered",),
        ),
        Protection(
            "An entry names no path outside of its folder.",
            "shared/jobs/entry.py",
            "    key: Annotated[str, AfterValidator(checked_key)]",
            "    key: str",
            (f"{_KEPT}test_an_entry_that_names_a_path_outside_of_its_folder_is_no_entry",),
        ),
        Protection(
            "The outbox takes no more bytes than it may.",
            "shared/jobs/outbox.py",
            "        if taken + size > self._max_bytes:",
            "        if False:",
            (f"{_KEPT}test_what_does_not_fit_is_not_kept_and_nothing_is_given_up_for_it",),
        ),
        Protection(
            "Payloads count for that, too.",
            "shared/jobs/outbox.py",
            "            with self._outbox.room_for(len(content)):",
            "            with contextlib.nullcontext():",
            (f"{_KEPT}test_a_payload_alone_does_not_go_beyond_the_limit_either",),
        ),
        Protection(
            "What is too old is given up.",
            "shared/jobs/outbox.py",
            "            if now - _made_at(path) / 1e9 > self._max_age:",
            "            if False:",
            (f"{_KEPT}test_what_is_too_old_is_given_up",),
        ),
        Protection(
            "What another worker may still be writing is not cleared away.",
            "shared/jobs/outbox.py",
            "            if now - path.stat().st_mtime > _PART_SECONDS:",
            "            if True:",
            (f"{_KEPT}test_what_a_crash_left_half_written_is_cleared_away_after_a_day",),
        ),
        Protection(
            "Entries are their owner's alone.",
            "shared/jobs/outbox.py",
            "        path.mkdir(mode=0o700)\n",
            "        path.mkdir()\n",
            (f"{_KEPT}test_only_its_owner_may_look_into_it",),
        ),
        Protection(
            "Of several runs of a job the newest counts.",
            "shared/jobs/outbox.py",
            "                self.remove(older)",
            "                pass",
            (f"{_KEPT}test_the_newest_run_of_a_job_takes_the_place_of_earlier_ones",),
        ),
        Protection(
            "A job that completes after all leaves no older result to be delivered.",
            "shared/jobs/deliver.py",
            '        if sent and payload.status == "completed":',
            "        if False:",
            (f"{_AWAY}test_a_job_that_is_sent_again_and_completes_leaves_no_older_result_to_be_delivered",),
        ),
        Protection(
            "A result that is kept is not replaced by the message that it was late.",
            "shared/jobs/deliver.py",
            'elif not sent and not (payload.status == "failed" and self._outbox.has(identity)):',
            "elif not sent:",
            (f"{_AWAY}test_with_both_away_the_result_is_delivered_and_not_that_it_was_late",),
        ),
        Protection(
            "What waits is delivered when a worker starts.",
            "shared/serverless.py",
            "    Redelivery(outbox, storage, webhook).start()\n",
            "",
            (_PICTURES_ARE_KEPT,),
            shows="TimeoutError",
        ),
        Protection(
            "It is looked for again while a worker runs.",
            "shared/jobs/redelivery.py",
            "            while True:",
            "            for _ in range(1):",
            (f"{_KEPT}test_a_worker_that_runs_looks_into_it_again_and_again",),
        ),
        Protection(
            "Files are stored before they are called back.",
            "shared/jobs/redelivery.py",
            "done = self._store(folder, entry) and self._send(entry)",
            "done = self._send(entry) and self._store(folder, entry)",
            (_PICTURES_ARE_KEPT,),
        ),
        Protection(
            "A repetition has the id of the first try.",
            "shared/jobs/redelivery.py",
            "webhook_id=entry.webhook_id)",
            'webhook_id="another")',
            (_PAYLOAD_IS_KEPT,),
        ),
        Protection(
            "What could not be delivered waits on.",
            "shared/jobs/redelivery.py",
            "        if done:\n",
            "        if True:\n",
            (_PAYLOAD_IS_KEPT,),
            shows="ValueError: not enough values to unpack",
        ),
        Protection(
            "What was delivered is gone.",
            "shared/jobs/redelivery.py",
            "            self._outbox.remove(folder)",
            "            pass",
            (f"{_KEPT}test_what_was_kept_is_delivered_whole_and_is_gone_then", _PAYLOAD_IS_KEPT),
        ),
        Protection(
            "The caller is told what waits.",
            "shared/jobs/payload.py",
            '        metadata["assets_pending"] = list(error.pending)',
            "        pass",
            (_PICTURES_ARE_KEPT,),
        ),
        Protection(
            "RunPod is told that a callback waits.",
            "shared/jobs/presentation.py",
            '            output["callback_pending"] = True',
            "            pass",
            (_PAYLOAD_IS_KEPT,),
            shows="KeyError: 'callback_pending'",
        ),
    ),
)
