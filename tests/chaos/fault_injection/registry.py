"""The injected faults, by number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.fault_injection.harness import Harness

Body = Callable[[Harness], None]


@dataclass(frozen=True)
class FaultCase:
    """A fault to inject, and what the worker does about it.

    Attributes:
        number: `F01` to `F46`.
        injected: The fault, as the page states it.
        expected: What the body asserts in addition to the invariants, as the page states it.
        body: Injects the fault and runs jobs.
        handlers: Handlers whose shared workers it uses in addition to SDXL's.
    """

    number: str
    injected: str
    expected: str
    body: Body
    handlers: tuple[str, ...] = ()


CASES: dict[str, FaultCase] = {}
GROUPS = {
    "Requests": range(1, 9),
    "References": range(9, 21),
    "Device, models and machine": range(21, 31),
    "Storage": range(31, 37),
    "Callbacks": range(37, 41),
    "Repeated deliveries and changes of the project": range(41, 45),
    "S3-compatible storage": range(45, 47),
}


def fault(number: str, injected: str, expected: str, *, handlers: tuple[str, ...] = ()) -> Callable[[Body], Body]:
    """Registers the decorated function as the body of a case."""

    def register(body: Body) -> Body:
        assert number not in CASES, f"{number} is registered twice"
        CASES[number] = FaultCase(number, injected, expected, body, handlers)
        return body

    return register


def cases_as_markdown() -> str:
    """Returns all cases as Markdown tables, one per group."""
    lines = []
    for title, numbers in GROUPS.items():
        cases = [CASES[name] for name in sorted(CASES) if int(name[1:]) in numbers]
        lines += [f"### {title}\n", "| case | injected | expected |", "| --- | --- | --- |"]
        lines += [f"| {case.number} | {case.injected} | {case.expected} |" for case in cases] + [""]
    return "\n".join(lines)
