"""Requests, pictures and jobs by chance: each of these was taken away, and chance found it."""

from __future__ import annotations

from tests.mutations.table import Point, Protection

_READ = "tests/fuzzing/test_requests.py::test_what_a_schema_allows_is_read_or_breaks_a_rule_that_is_listed"
_NAMED = "tests/fuzzing/test_requests.py::test_the_one_thing_that_is_wrong_is_named_alone_before_any_work_and_is_not_repeated"
_NULL = "tests/fuzzing/test_requests.py::test_null_is_as_if_it_were_not_there"
_OPENED = "tests/fuzzing/test_pictures.py::test_a_damaged_picture_opens_within_the_limits_or_is_refused_in_words[400]"
_DATA = "tests/fuzzing/test_references.py::test_a_data_url_is_a_picture_or_is_refused_by_the_name_of_its_field[150]"
_JOBS = "tests/fuzzing/test_jobs.py::test_whatever_happens_to_jobs_nothing_is_lost_and_nothing_is_said_that_is_not_so[20]"

POINT = Point(
    10,
    "Fuzzing",
    (
        Protection(
            "A value is of its type, and is not made so.",
            "shared/contract/request.py",
            "model_config = ConfigDict(strict=True, frozen=True",
            "model_config = ConfigDict(strict=False, frozen=True",
            (f"{_NAMED}[80-wan]",),
        ),
        Protection(
            "Text that no database can hold is refused.",
            "shared/contract/fields.py",
            "Text = Annotated[str, AfterValidator(ensure_sound)]",
            "Text = Annotated[str, AfterValidator(str)]",
            (f"{_NAMED}[80-chat]",),
        ),
        Protection(
            "What was sent is shown only where it is a short word.",
            "shared/contract/problems.py",
            "shown = show_text and _WORD.fullmatch(value) and not looks_like_a_key(value)",
            "shown = show_text",
            (f"{_NAMED}[80-sdxl]", f"{_NAMED}[80-wan]"),
        ),
        Protection(
            "What stands in a list is blamed by its place, also where something else than a list is allowed.",
            "shared/contract/problems.py",
            'for option in node.get("anyOf", (node,)):',
            "for option in (node,):",
            ("tests/handlers/chat/test_request.py::test_stop_has_at_most_eight_strings_that_are_not_empty",),
        ),
        Protection(
            "A stop that is alone is blamed by its name.",
            "handlers/chat/request.py",
            "if not 1 <= len(stop) <= _LONGEST_STOP:",
            "if False:",
            ("tests/handlers/chat/test_request.py::test_stop_has_at_most_eight_strings_that_are_not_empty",),
        ),
        Protection(
            "Within an object, too, null is as if it were not there.",
            "shared/contract/nested.py",
            "if name in known and inner is not None}",
            "if name in known}",
            (f"{_NULL}[40-sdxl]",),
        ),
        Protection(
            "A text part whose type is null is one without a type.",
            "handlers/chat/request.py",
            'part.get("type") in (None, "text")',
            'part.get("type", "text") == "text"',
            (f"{_READ}[60-chat]", f"{_READ}[60-openai]"),
        ),
        Protection(
            "A clip's side has its limit wherever its size comes from.",
            "handlers/wan/clip_sizes.py",
            "side % STEP == 0 and side <= LONGEST_SIDE for side",
            "side % STEP == 0 for side",
            ("tests/handlers/wan/test_request.py::test_a_size_with_a_side_that_is_too_long_is_refused_where_it_was_given",),
        ),
        Protection(
            "An aspect becomes a size that a clip may have.",
            "handlers/wan/clip_sizes.py",
            "largest = min(max(STEP, most // STEP * STEP), LONGEST_SIDE)",
            "largest = max(STEP, most // STEP * STEP)",
            ("tests/handlers/wan/test_request.py::test_an_aspect_beyond_all_sides_becomes_one_that_a_clip_may_have",),
            shows="shared.errors.ValidationError",
        ),
        Protection(
            "The digits of a size are those of the schema.",
            "shared/contract/sizes.py",
            ", re.ASCII)",
            ")",
            ("tests/handlers/sdxl/test_request.py::test_the_digits_of_a_resolution_are_those_of_the_schema",),
        ),
        Protection(
            "Whatever Pillow raises for a damaged file, it is called damaged.",
            "shared/media/images.py",
            "except _DAMAGED:\n        raise UnreadableImage",
            "except OSError:\n        raise UnreadableImage",
            (_OPENED,),
            shows="ValueError",
        ),
        Protection(
            "Pictures leave the opener as RGB, whatever they were.",
            "shared/media/images.py",
            'return image.convert("RGB")',
            "return image",
            (_OPENED,),
        ),
        Protection(
            "A data: URL is measured before it is decoded.",
            "shared/fetch.py",
            "if len(payload) > (limit + 2) // 3 * 4:",
            "if False:",
            (_DATA,),
        ),
        Protection(
            "A failure that could not be told does not take the place of a result that waits.",
            "shared/jobs/delivery/callbacks.py",
            'elif not sent and not (payload.status == "failed" and self._outbox.has(identity)):',
            "elif not sent:",
            (_JOBS,),
        ),
        Protection(
            "What could not be told is kept.",
            "shared/jobs/delivery/callbacks.py",
            'elif not sent and not (payload.status == "failed" and self._outbox.has(identity)):',
            "elif False:",
            (_JOBS,),
        ),
        Protection(
            "What waits is stored before it is called back.",
            "shared/jobs/delivery/redelivery.py",
            "done = self._store(folder, entry) and self._send(entry)",
            "done = self._send(entry)",
            (_JOBS,),
        ),
        Protection(
            "Nothing stays of a result that was kept and then was not wanted.",
            "shared/jobs/delivery/uploads.py",
            "        if self._draft is not None:\n            self._draft.drop()",
            "        pass",
            (_JOBS,),
        ),
        Protection(
            "The same end of the same job has the same webhook-id.",
            "shared/jobs/delivery/callbacks.py",
            'f"{payload.job_id}_{payload.status}")',
            'f"{payload.job_id}_{payload.status}_{id(payload)}")',
            (_JOBS,),
        ),
        Protection(
            "Of several entries of one job, the one counts that was sealed last.",
            "shared/jobs/delivery/outbox.py",
            "part.rename(_as_entry(part))",
            "part.rename(part.with_name(part.name.removesuffix(_PART)))",
            ("tests/shared/jobs/delivery/test_outbox.py::test_what_is_sealed_last_counts_however_early_it_was_begun",),
        ),
    ),
)
