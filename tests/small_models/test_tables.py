"""Tables are Markdown, and each row fits its head."""

from __future__ import annotations

import pytest

from small_models.training.tables import table


def test_a_table_has_a_head_a_line_and_its_rows() -> None:
    assert table(("scale", "right"), [("0", "50%"), ("1", "90%")]) == "| scale | right |\n|---|---|\n| 0 | 50% |\n| 1 | 90% |"


def test_a_row_that_does_not_fit_its_head_is_refused() -> None:
    with pytest.raises(ValueError, match="3 cells in a table of 2 columns"):
        table(("scale", "right"), [("0", "50%", "1%")])
