"""What a program asks of a device: operations, kernels, and the points where the host waits."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

_ROOT = Path(__file__).parents[2]
_OWN = tuple(f"{_ROOT / folder}/" for folder in ("handlers", "shared"))
_IGNORED = (f"{Path(__file__).parent}/", "/torch/")


@dataclass(frozen=True, slots=True)
class Wait:
    """A point where the host waits until the device has finished all work.

    Attributes:
        kind: `item`, `device to host`, `host to device`, `index from the host`, `boolean index`, or the operation.
        own: File and line of the project that caused it; empty if none did.
        library: File and line of the library below it, if any.
        tensor: Type and shape of what was copied or read.
    """

    kind: str
    own: str
    library: str
    tensor: str

    def __str__(self) -> str:
        return f"{self.kind} of {self.tensor} at {' > '.join(place for place in (self.own, self.library) if place)}"


@dataclass
class Counts:
    """Counts by phase: the name that the program gives to what it does.

    Attributes:
        waits: By phase and wait. Copies that do not block are not among them.
        flops: Floating-point operations by phase and type, a multiplication and an addition as two.
        kernels: Operations that are not views, by phase: a lower bound of the kernels.
        traffic: Bytes that the kernels read and write, by phase.
        attention: Calls of attention by phase and kernel: `flash`, `efficient` or `math`.
        copied: Bytes by direction: `host to device`, `device to host`.
    """

    waits: Counter[tuple[str, Wait]] = field(default_factory=Counter)
    flops: Counter[tuple[str, str]] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)
    traffic: Counter[str] = field(default_factory=Counter)
    attention: Counter[tuple[str, str]] = field(default_factory=Counter)
    copied: Counter[str] = field(default_factory=Counter)

    def waits_in(self, phase: str) -> int:
        """Returns the number of waits in a phase."""
        return sum(count for (where, _), count in self.waits.items() if where == phase)

    def flops_in(self, *phases: str) -> int:
        """Returns the floating-point operations in some phases, in all types; without arguments, in all phases."""
        return sum(count for (where, _), count in self.flops.items() if not phases or where in phases)

    def describe_waits(self) -> str:
        """Returns one line for each place where the host waits, the most frequent first."""
        return "\n".join(f"{count:5d} × {phase}: {wait}" for (phase, wait), count in self.waits.most_common())


def calling_lines() -> tuple[str, str]:
    """Returns file and line of the project's innermost frame, and of the innermost library frame, torch's own excluded."""
    frame: FrameType | None = sys._getframe(1)
    library = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_OWN):
            return f"{file.removeprefix(f'{_ROOT}/')}:{frame.f_lineno}", library
        if not library and not any(part in file for part in _IGNORED):
            library = f"{'/'.join(file.split('/')[-3:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "", library
