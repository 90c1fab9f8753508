"""Keys, tokens and what people write are in no line, no error, no payload and no callback."""

from __future__ import annotations

from tests.mutations.table import Point, Protection

_OUTBURST = "tests/privacy/test_outbursts.py::test_what_bursts_out_is_said_without_its_text"
_REPRS = "tests/privacy/test_reprs.py::test_no_object_shows_a_text_that_is_not_named_as_fit_to_be_shown"
_TELEMETRY = "shared/telemetry.py"

POINT = Point(
    8,
    "Secrets and privacy",
    (
        Protection(
            "Lines of libraries are logged without their texts.",
            _TELEMETRY,
            'logging.LogRecord if level == "DEBUG" else _record_without_text',
            "logging.LogRecord",
            (f"{_OUTBURST}[by_libraries]", f"{_OUTBURST}[in_a_task_that_nobody_awaits]", f"{_OUTBURST}[by_a_library_that_prints_records]"),
        ),
        Protection(
            "Warnings of libraries are logged by their category.",
            _TELEMETRY,
            "    warnings.showwarning = _show_warning\n",
            "",
            (f"{_OUTBURST}[as_a_warning]",),
        ),
        Protection(
            "An error that ends the process is logged by its type.",
            _TELEMETRY,
            "sys.excepthook = lambda",
            "_ = lambda",
            (f"{_OUTBURST}[uncaught]", "tests/privacy/test_sdk.py::test_what_fails_in_the_sdk_is_said_without_its_text"),
        ),
        Protection(
            "An error that ends a thread is logged by its type.",
            _TELEMETRY,
            "threading.excepthook = lambda",
            "_ = lambda",
            (f"{_OUTBURST}[in_a_thread]",),
        ),
        Protection(
            "An error that nobody can receive is logged by its type.",
            _TELEMETRY,
            "sys.unraisablehook = lambda",
            "_ = lambda",
            (f"{_OUTBURST}[in_a_finalizer]",),
        ),
        Protection(
            "A line of ours shows no traceback above DEBUG.",
            _TELEMETRY,
            'if method != "debug" and (given := line.pop("exc_info", None)):',
            'if method == "nothing" and (given := line.pop("exc_info", None)):',
            (f"{_OUTBURST}[by_our_own_mistake]",),
        ),
        Protection(
            "RunPod's SDK does not print errors with its own hook.",
            "shared/serverless.py",
            "        watch_errors()  # the SDK has put a hook of its own there, which prints tracebacks\n",
            "        pass\n",
            ("tests/privacy/test_sdk.py::test_what_fails_in_the_sdk_is_said_without_its_text",),
        ),
        Protection(
            "A job's failure is logged by its type and its place.",
            "shared/jobs/lifecycle.py",
            'log_error("job failed", error, "error" if known.retryable else "warning", code=known.code)',
            'logger().error("job failed", code=known.code, reason=repr(error))',
            ("tests/shared/jobs/test_secrets.py::test_no_failure_says_it_outside",),
        ),
        Protection(
            "A caller is told no text of an error that was not written for callers.",
            "shared/errors.py",
            'f"The worker failed unexpectedly. Send',
            'f"The worker failed unexpectedly: {error!r} {error.__cause__}. Send',
            ("tests/shared/jobs/test_secrets.py::test_no_failure_says_it_outside",),
        ),
        Protection(
            "An object shows nothing that somebody wrote: messages, for instance.",
            "handlers/chat/request.py",
            'Field(repr=False, description="What is said,',
            'Field(description="What is said,',
            (_REPRS, "tests/privacy/test_reprs.py::test_what_a_request_asks_for_is_not_in_its_repr"),
        ),
        Protection(
            "A job shows nothing of what arrived.",
            "shared/jobs/lifecycle.py",
            "    input: object = field(repr=False)\n",
            "    input: object\n",
            (_REPRS,),
        ),
        Protection(
            "Settings show no URL, for it may hold a token.",
            "shared/settings.py",
            'repr=False, description="Where callbacks go; by default',
            'description="Where callbacks go; by default',
            (_REPRS, "tests/privacy/test_keys.py::test_settings_show_neither_keys_nor_urls"),
        ),
        Protection(
            "Keys are held by `SecretStr` alone.",
            "shared/storage/supabase.py",
            "        self._key = settings.supabase_key\n",
            '        self._key = settings.supabase_key\n        self._headers = {"apikey": settings.supabase_key.get_secret_value()}\n',
            ("tests/privacy/test_keys.py::test_no_object_of_a_worker_holds_a_key_in_the_open",),
        ),
        Protection(
            "A reference shows no query and no password.",
            "shared/contract/references.py",
            "return _without_secrets(self.value)[:200]",
            "return self.value[:200]",
            ("tests/privacy/test_reprs.py::test_a_reference_shows_where_it_is_and_nothing_that_opens_it",),
        ),
        Protection(
            "A wrong variable is named without its value.",
            "shared/settings.py",
            """wrong = [f"{_variable(problem['loc'])}: {problem['msg']}" for problem in error.errors(include_input=False)]""",
            """wrong = [f"{_variable(problem['loc'])}: {problem}" for problem in error.errors()]""",
            ("tests/privacy/test_start.py::test_a_wrong_configuration_is_not_repeated",),
        ),
        Protection(
            "A key in the place of a name is not said back.",
            "shared/contract/names.py",
            "    return _KEY.match(text) is not None\n",
            "    return False\n",
            (
                "tests/privacy/test_names.py::test_a_key_in_the_place_of_a_name_is_not_said_back",
                "tests/privacy/test_names.py::test_a_key_in_the_place_of_anything_else_is_not_said_back",
            ),
        ),
    ),
)
