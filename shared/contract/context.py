"""What a request is judged by beside itself, and the warnings that come up on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from pydantic import ValidationInfo

_MOST_NOTES = 20
_LONGEST_NOTE = 240


@dataclass(frozen=True)
class Operator:
    """The operator's decisions that requests are validated against. A handler with decisions of its own declares a subclass.

    Attributes:
        callback_hosts: Lower-case hosts that a request's own `callback_url` may name.
    """

    callback_hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, operator: Operator) -> Self:
        """Returns the operator as an instance of this class: itself, or this class's defaults where it is of another."""
        return operator if isinstance(operator, cls) else cls(callback_hosts=operator.callback_hosts)


DEFAULT_OPERATOR = Operator()
"""An operator who decided nothing."""


class RequestWarnings:
    """The warnings about one request: each once, few and short, so that no request can make a large payload."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}
        self._left_out = 0

    def add(self, text: str) -> None:
        """Adds a sentence unless it is already there. Beyond twenty they are only counted."""
        short = text[:_LONGEST_NOTE]
        if short in self._texts:
            return
        if len(self._texts) < _MOST_NOTES:
            self._texts[short] = None
        else:
            self.add_omitted(1)

    def add_omitted(self, count: int) -> None:
        """Counts warnings that were not worth writing down."""
        self._left_out += count

    def __iter__(self) -> Iterator[str]:
        yield from self._texts
        if self._left_out:
            yield f"and {self._left_out} more {'warning' if self._left_out == 1 else 'warnings'}"


@dataclass(frozen=True)
class Context:
    """Handed to pydantic, so that validators see more than one value.

    Attributes:
        operator: The operator's decisions.
        job_id: RunPod's id of the job, for requests that may leave their own out.
        sources: Where each given field stands, as the caller wrote it.
        warnings: Where validators put warnings.
    """

    operator: Operator = DEFAULT_OPERATOR
    job_id: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: RequestWarnings = field(default_factory=RequestWarnings)

    def source_of(self, name: str) -> str:
        """A given field as the caller wrote it: `config.frame_num` for `frames`."""
        return self.sources.get(name, name)

    @classmethod
    def of(cls, info: ValidationInfo) -> Context:
        """The context of a running validation; an empty one when a request is built directly, as tests do."""
        return info.context if isinstance(info.context, cls) else cls()
