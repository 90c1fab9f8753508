"""A worker that cannot work does not start, and says everything that is wrong."""

from __future__ import annotations

from tests.mutations.table import Point, Protection, fault

_ENDS = "tests/shared/serverless/test_ends_of_a_worker.py::"
_EVERYTHING = f"{_ENDS}test_a_worker_that_cannot_start_says_everything_that_is_wrong_at_once"
_HALF = f"{_ENDS}test_a_worker_that_is_half_configured_reports_itself_unhealthy_and_takes_no_job"
_BUCKET = "tests/shared/storage/test_supabase.py::"
_VERIFY = "tests/shared/weights/test_verify.py::"
_ONE_BY_ONE = "tests/shared/serverless/test_start.py::"

POINT = Point(
    7,
    "Start",
    (
        Protection(
            "A configuration that was begun and not finished is refused.",
            "shared/self_check.py",
            '{"configuration": check_complete, ',
            "{",
            (_HALF, _EVERYTHING),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "A project needs its key.",
            "shared/settings.py",
            "    if settings.supabase_url is not None and settings.supabase_key is None:",
            "    if False:",
            (_HALF, "tests/shared/test_settings.py::test_everything_that_is_missing_is_named_at_once"),
        ),
        Protection(
            "A key needs its project.",
            "shared/settings.py",
            "    if settings.supabase_key is not None and settings.supabase_url is None:",
            "    if False:",
            ("tests/shared/test_settings.py::test_a_key_without_a_project_is_half_a_configuration",),
        ),
        Protection(
            "A callback needs the secret that it is signed with.",
            "shared/settings.py",
            "    if settings.callback_url is not None and settings.job_callback_secret is None:",
            "    if False:",
            (_HALF, "tests/shared/test_settings.py::test_everything_that_is_missing_is_named_at_once"),
        ),
        Protection(
            "The bucket is asked for: a wrong key or no bucket is found before the first job.",
            "shared/self_check.py",
            'for name in ("storage", "callbacks")}',
            'for name in ("callbacks",)}',
            (fault("F34"),),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "A bucket that is too small for results is found.",
            "shared/storage/supabase.py",
            "        if bucket.file_size_limit is not None and bucket.file_size_limit < _LEAST_SIZE_LIMIT:",
            "        if False:",
            (f"{_BUCKET}test_the_check_finds_a_size_limit_that_is_too_small",),
        ),
        Protection(
            "A bucket that does not take what is made is found.",
            "shared/storage/supabase.py",
            "        if refused:",
            "        if False:",
            (f"{_BUCKET}test_the_check_names_types_that_the_bucket_does_not_allow",),
        ),
        Protection(
            "A receiver that may not be told is found.",
            "shared/self_check.py",
            'for name in ("storage", "callbacks")}',
            'for name in ("storage",)}',
            (f"{_ONE_BY_ONE}test_a_receiver_that_may_not_be_told_stops_it",),
        ),
        Protection(
            "An outbox that cannot be written to is found.",
            "shared/self_check.py",
            ', "outbox": _OF_A_MACHINE["outbox"]}',
            "}",
            (_EVERYTHING,),
        ),
        Protection(
            "A disk without room is found.",
            "shared/self_check.py",
            ' "disk": check_disk, ',
            " ",
            (f"{_ONE_BY_ONE}test_a_disk_without_room_stops_it",),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "Room is what a clip needs.",
            "shared/self_check.py",
            "    if free < _LEAST_FREE:",
            "    if False:",
            (f"{_ONE_BY_ONE}test_a_disk_without_room_stops_it",),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "A machine that cannot encode clips is found.",
            "handlers/wan/handler.py",
            "        check_encoder(_encoding(settings))",
            "        _encoding(settings)",
            (fault("F27"),),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "Weights are looked at before anything is loaded.",
            "shared/self_check.py",
            '    wanted |= {f"weights {entry.name}": partial(_verify, entry) for entry in weights}\n',
            "",
            (_EVERYTHING,),
        ),
        Protection(
            "A file of the weights that is missing is found without reading any.",
            "shared/weights/verify.py",
            "    _check(name, differences(weights, lock, hashes=False))\n",
            "",
            (f"{_VERIFY}test_a_missing_file_is_named",),
            shows="FileNotFoundError",
        ),
        Protection(
            "A file of the wrong bytes is found by its hash.",
            "shared/weights/lock.py",
            "        elif hashes and sha256_of(path) != file.sha256:",
            "        elif False:",
            (
                f"{_VERIFY}test_damaged_weights_are_named",
                "tests/shared/weights/test_lock.py::test_a_changed_byte_shows_when_hashes_are_compared",
            ),
        ),
        Protection(
            "Hashes are compared once per place.",
            "shared/weights/verify.py",
            "    if _stamped(weights) == state:",
            "    if False:",
            (f"{_VERIFY}test_whole_weights_pass_and_are_hashed_only_once",),
            shows="shared.settings.SettingsError",
        ),
        Protection(
            "Another lock makes the stamp worthless.",
            "shared/weights/verify.py",
            '"lock": hashlib.sha256(lock_path(weights).read_bytes()).hexdigest(), ',
            "",
            (f"{_VERIFY}test_another_lock_makes_the_stamp_worthless",),
        ),
        Protection(
            "A lock names no file outside of its folder.",
            "shared/weights/lock.py",
            "    if leaves_its_folder(file.path):",
            "    if False:",
            ("tests/shared/weights/test_lock.py::test_a_lock_that_leaves_its_folder_is_refused",),
        ),
        Protection(
            "All that is wrong is said at once.",
            "shared/self_check.py",
            "    wrong = {name: reason for name, check in wanted.items() if (reason := _reason(check, settings)) is not None}",
            "    wrong = dict([(name, reason) for name, check in wanted.items() if (reason := _reason(check, settings)) is not None][:1])",
            (_EVERYTHING,),
        ),
        Protection(
            "A worker that cannot start tells RunPod so by a fitness check, and ends.",
            "shared/serverless.py",
            "    _runpod().register_fitness_check(check)\n",
            "",
            (_HALF,),
            shows="subprocess.TimeoutExpired",
        ),
    ),
)
