"""The hostile inputs, by group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.soak.scenario import Scenario

COMPLETED = "completed"
INVALID = frozenset({"VALIDATION_ERROR"})
UNUSABLE_REFERENCE = frozenset({"REFERENCE_IMAGE_ERROR"})

Prepare = Callable[[Scenario], object]


@dataclass(frozen=True)
class HostileInput:
    """An input that costs more than it seems to.

    Attributes:
        name: What is sent, as the page states it.
        group: Heading on the page.
        handler: Whose worker it is sent to.
        outcomes: How the job may end: error codes, or `completed`.
        prepare: Changes a good job into it.
    """

    name: str
    group: str
    handler: str
    outcomes: frozenset[str]
    prepare: Prepare


HOSTILE_INPUTS: list[HostileInput] = []
"""Filled by the modules of `inputs`."""


def hostile(group: str, name: str, prepare: Prepare, *handlers: str, outcomes: frozenset[str] = INVALID) -> None:
    """Registers an input for each of the handlers."""
    for handler in handlers:
        HOSTILE_INPUTS.append(HostileInput(name, group, handler, outcomes, prepare))


def inputs_as_markdown() -> str:
    """Returns all inputs as Markdown tables, one per group."""
    lines: list[str] = []
    for group in dict.fromkeys(each.group for each in HOSTILE_INPUTS):
        members = [each for each in HOSTILE_INPUTS if each.group == group]
        lines += [f"### {group}\n", "| sent | to | answer |", "| --- | --- | --- |"]
        for name in dict.fromkeys(each.name for each in members):
            same = [each for each in members if each.name == name]
            answers = sorted({f"`{outcome}`" for each in same for outcome in each.outcomes})
            lines.append(f"| {name} | {', '.join(each.handler for each in same)} | {' or '.join(answers)} |")
        lines.append("")
    return "\n".join(lines)
