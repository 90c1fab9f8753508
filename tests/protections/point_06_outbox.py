"""What storage or a receiver did not take is kept whole, once, within bounds, and delivered later."""

from __future__ import annotations

from tests.protections.table import Point, Protection

POINT = Point(
    6,
    "Outbox",
    (
        Protection(
            "A damaged file in an entry is not delivered as if it were whole.",
            "shared/jobs/outbox.py",
            "whole = all(_sha256(folder / file.name) == file.sha256 for file in kept.files)",
            "whole = True",
            ("tests/jobs/test_outbox.py::test_a_file_that_was_damaged_meanwhile_is_not_delivered",),
        ),
        Protection(
            "The outbox takes no more bytes than it may.",
            "shared/jobs/outbox.py",
            "if taken + size > self._max_bytes:",
            "if False:",
            ("tests/jobs/test_outbox.py::test_what_does_not_fit_is_not_kept_and_nothing_is_given_up_for_it",),
        ),
    ),
)
