"""Markdown tables, for the output of evaluations and for model cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table.

    Args:
        columns: The header.
        rows: Rows of as many cells as there are columns.

    Raises:
        ValueError: A row has another number of cells.
    """
    lines = (_line(cells, len(columns)) for cells in rows)
    return "\n".join([_line(columns, len(columns)), "|" + "---|" * len(columns), *lines])


def _line(cells: Sequence[str], count: int) -> str:
    if len(cells) != count:
        raise ValueError(f"A row has {len(cells)} cells in a table of {count} columns: {', '.join(cells)}.")
    return f"| {' | '.join(cells)} |"
