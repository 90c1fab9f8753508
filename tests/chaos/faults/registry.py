"""The cases, by their numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.faults.world import World

Body = Callable[[World], None]


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        number: `F01` … `F40`.
        injected: What is done to the worker.
        holds: What is asserted beside S1 … S8.
        body: Does it.
        handlers: Whose workers it uses beside SDXL's.
    """

    number: str
    injected: str
    holds: str
    body: Body
    handlers: tuple[str, ...] = ()


CASES: dict[str, Case] = {}
GROUPS = {
    "A. What a job brings": range(1, 9),
    "B. References": range(9, 21),
    "C. The GPU, the models, the machine": range(21, 31),
    "D. Storage": range(31, 37),
    "E. Callbacks": range(37, 41),
}


def fault(number: str, injected: str, holds: str, *, handlers: tuple[str, ...] = ()) -> Callable[[Body], Body]:
    """Registers a case."""

    def register(body: Body) -> Body:
        assert number not in CASES, f"{number} is there twice"
        CASES[number] = Case(number, injected, holds, body, handlers)
        return body

    return register


def table() -> str:
    """All cases as a table of Markdown, by groups."""
    lines = []
    for title, numbers in GROUPS.items():
        cases = [CASES[name] for name in sorted(CASES) if int(name[1:]) in numbers]
        lines += [f"### {title}\n", "| case | injected | holds |", "| --- | --- | --- |"]
        lines += [f"| {case.number} | {case.injected} | {case.holds} |" for case in cases] + [""]
    return "\n".join(lines)
