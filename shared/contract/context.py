"""The context of a validation: the operator's settings, the job's id, and the warnings collected on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from pydantic import ValidationInfo

_MAX_WARNINGS = 20
_MAX_WARNING_LENGTH = 240


@dataclass(frozen=True)
class Operator:
    """The operator's settings that requests are validated against. Handlers with settings of their own declare a subclass.

    Attributes:
        callback_hosts: Lower-case hosts that a request's own `callback_url` may name.
    """

    callback_hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, operator: Operator) -> Self:
        """Returns the operator as this class: unchanged if it is an instance, else with this class's defaults."""
        return operator if isinstance(operator, cls) else cls(callback_hosts=operator.callback_hosts)


DEFAULT_OPERATOR = Operator()
"""The defaults."""


class RequestWarnings:
    """The warnings about one request: deduplicated and bounded in number and length, so that no request can inflate its payload."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}
        self._omitted = 0

    def add(self, text: str) -> None:
        """Adds a warning unless it is a duplicate. Beyond twenty, warnings are only counted."""
        short = text[:_MAX_WARNING_LENGTH]
        if short in self._texts:
            return
        if len(self._texts) < _MAX_WARNINGS:
            self._texts[short] = None
        else:
            self.add_omitted(1)

    def add_unknown(self, path: str, meant: str | None) -> None:
        """Warns that a name is unknown, with the known name that it resembles."""
        self.add(f"`{path}` is not a known field and was ignored" + (f"; did you mean `{meant}`?" if meant is not None else ""))

    def add_ignored(self, path: str, reason: str) -> None:
        """Warns that a field has no effect."""
        self.add(f"`{path}` was ignored, because {reason}")

    def add_omitted(self, count: int) -> None:
        """Counts warnings that are not written out."""
        self._omitted += count

    def __iter__(self) -> Iterator[str]:
        yield from self._texts
        if self._omitted:
            yield f"and {self._omitted} more {'warning' if self._omitted == 1 else 'warnings'}"


@dataclass(frozen=True)
class Context:
    """The validation context that is passed to pydantic.

    Attributes:
        operator: The operator's settings.
        job_id: RunPod's id of the job, the default for requests whose own id is optional.
        sources: The path of each given field, as the caller wrote it.
        warnings: Receives the validators' warnings.
    """

    operator: Operator = DEFAULT_OPERATOR
    job_id: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: RequestWarnings = field(default_factory=RequestWarnings)

    def source_of(self, name: str) -> str:
        """Returns the path of a given field as the caller wrote it: `config.frame_num` for `frames`."""
        return self.sources.get(name, name)

    @classmethod
    def of(cls, info: ValidationInfo) -> Context:
        """Returns the context of the running validation; an empty one when a request is constructed directly, as in tests."""
        return info.context if isinstance(info.context, cls) else cls()
