"""Storage and receivers may fail; what they do not take is tried again, or kept."""

from __future__ import annotations

from tests.mutations.table import Point, Protection, fault

POINT = Point(
    1,
    "Storage and callbacks",
    (
        Protection(
            "What storage says in the body of its answer counts, not the 400 that it is sent with.",
            "shared/storage/supabase.py",
            "        return int(error.status)",
            "        return 400",
            (fault("F31"), "tests/shared/storage/test_supabase.py::test_a_failure_that_passes_is_survived"),
            shows="shared.errors.UploadError",
        ),
        Protection(
            "Storage that fails for now is asked again.",
            "shared/storage/supabase.py",
            "again=status >= 500 or status in _RETRIED, status=status)",
            "again=False, status=status)",
            (fault("F31"), "tests/shared/storage/test_supabase.py::test_a_failure_that_passes_is_survived"),
            shows="shared.errors.UploadError",
        ),
        Protection(
            "Storage that refuses for good is asked once.",
            "shared/storage/supabase.py",
            "again=status >= 500 or status in _RETRIED, status=status)",
            "again=True, status=status)",
            (fault("F34"), "tests/shared/storage/test_supabase.py::test_a_refusal_is_believed_at_once_by_the_status_in_its_body"),
        ),
        Protection(
            "An answer that is a gateway's page proves nothing, and the upload is repeated.",
            "shared/storage/supabase.py",
            "    except (KeyError, ValueError):",
            "    except ZeroDivisionError:",
            (fault("F32"),),
        ),
        Protection(
            "An upload that is never answered ends by its deadline.",
            "shared/storage/supabase.py",
            "            self._ask(upload, Deadline(min(self._deadline, seconds)))",
            "            self._ask(upload, Deadline(1000.0))",
            (fault("F33"),),
        ),
        Protection(
            "What storage does not take is kept.",
            "shared/jobs/delivery/uploads.py",
            "                return self._keep(key, content, content_type, error)",
            "                raise",
            (fault("F35"),),
        ),
        Protection(
            "A connection to storage that breaks is tried again.",
            "shared/storage/supabase.py",
            'raise FailedTry("the connection to storage failed", again=True) from None',
            'raise FailedTry("the connection to storage failed", again=False) from None',
            (fault("F36"),),
        ),
        Protection(
            "A receiver that fails for now is told again.",
            "shared/webhooks.py",
            "            again = status in _RETRIED or status >= 500",
            "            again = False",
            (fault("F37"), "tests/shared/test_webhooks.py::test_a_failure_that_passes_is_survived"),
            shows="ValueError: not enough values to unpack",
        ),
        Protection(
            "A receiver that answers with anything but success was not told.",
            "shared/webhooks.py",
            "        if not 200 <= status <= 299:",
            "        if status >= 500:",
            (fault("F38"), "tests/shared/test_webhooks.py::test_a_refusal_is_final_and_a_redirect_is_one"),
        ),
        Protection(
            "A callback that nobody took is kept.",
            "shared/jobs/delivery/callbacks.py",
            '        elif not sent and not (payload.status == "failed" and self._outbox.has(identity)):',
            "        elif False:",
            (fault("F38"), fault("F39")),
            shows="ValueError: not enough values to unpack",
        ),
        Protection(
            "A result that RunPod would lose fails instead.",
            "shared/jobs/delivery/callbacks.py",
            "    if size > MAX_RESULT_BYTES:",
            "    if False:",
            (fault("F40"), "tests/shared/serverless/test_results.py::test_a_result_that_runpod_would_lose_fails_with_its_size"),
            shows="KeyError: 'error'",
        ),
        Protection(
            "A number that is not finite never becomes a payload.",
            "shared/contract/assets.py",
            "        allow_inf_nan=False,\n",
            "",
            ("tests/shared/contract/test_callback.py::test_a_number_that_is_not_finite_never_becomes_a_payload",),
        ),
    ),
)
