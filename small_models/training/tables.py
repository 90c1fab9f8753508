"""Tables in Markdown, as checks print them and cards keep them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """One line for the head, one below it, and one for each row.

    Args:
        columns: The head.
        rows: Each with as many cells as there are columns.

    Raises:
        ValueError: A row has more cells, or fewer.
    """
    lines = (_line(cells, len(columns)) for cells in rows)
    return "\n".join([_line(columns, len(columns)), "|" + "---|" * len(columns), *lines])


def _line(cells: Sequence[str], count: int) -> str:
    if len(cells) != count:
        raise ValueError(f"A row has {len(cells)} cells in a table of {count} columns: {', '.join(cells)}.")
    return f"| {' | '.join(cells)} |"
