"""What a field's declaration says beside its type: where it stands on the location, and what an absent value counts as.

Adding a field means writing one declaration. The reading of requests, the messages about wrong ones, the schemas, the TypeScript and the
tables of the documentation all derive from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from shared.contract.context import Context

Section = Literal["top", "config", "metadata"]

SECTIONS: tuple[Section, ...] = ("config", "top", "metadata")
"""Where a value may stand, the section that wins first."""

UNSET: Any = None
"""The default of a field whose absent value is computed by `ComputedDefault`."""


@dataclass(frozen=True)
class FieldLocation:
    """Where a field stands in what a caller sends.

    Attributes:
        path: The canonical section and name: `config.steps`, or `prompt` at the top level.
        aliases: Other names, tried after the canonical one in each section; `metadata.x` is tried only there.
        sections: The sections that are looked through.
        must_agree: Whether all names that are given must have the same value.
    """

    path: str
    aliases: tuple[str, ...] = ()
    sections: tuple[Section, ...] = SECTIONS
    must_agree: bool = False

    @property
    def section(self) -> Section:
        """The canonical section."""
        head, dot, _ = self.path.partition(".")
        return _section(head) if dot else "top"

    @property
    def name(self) -> str:
        """The canonical name, without its section."""
        return self.path.rpartition(".")[2]

    def candidates(self) -> Iterator[tuple[Section, str]]:
        """Every section and name under which the field may stand, the one that wins first."""
        for section in SECTIONS:
            names = [alias.rpartition(".") for alias in (self.name, *self.aliases)]
            fitting = [name for head, _, name in names if head == section or (not head and section in self.sections)]
            yield from ((section, name) for name in dict.fromkeys(fitting))

    def documented_aliases(self) -> Iterator[tuple[Section, str]]:
        """The aliases with the sections that documentation names for them: their own, else that of the canonical name."""
        own = {alias.rpartition(".")[2]: _section(alias.rpartition(".")[0]) for alias in self.aliases if "." in alias}
        yield from ((own.get(name, self.section), name) for name in dict.fromkeys(alias.rpartition(".")[2] for alias in self.aliases))


def _section(name: str) -> Section:
    return next(section for section in SECTIONS if section == name)


def path_of(section: Section, name: str) -> str:
    """A name as a caller would write it: `config.steps`, `prompt`."""
    return name if section == "top" else f"{section}.{name}"


def field_locations(model: type[BaseModel]) -> dict[str, FieldLocation]:
    """The fields of a request that stand on the location, in the order of their declaration."""
    return {name: part for name, field in model.model_fields.items() for part in field.metadata if isinstance(part, FieldLocation)}


Compute = Callable[[Mapping[str, Any], Context], object]


@dataclass(frozen=True)
class ComputedDefault:
    """What an absent field counts as, computed from the fields declared before it; those that are wrong are missing there.

    Attributes:
        compute: Makes the value, or raises what `refuse` returns.
        text: The default as the documentation says it.
    """

    compute: Compute
    text: str

    @classmethod
    def by_type(cls, values: Mapping[tuple[str, ...], object]) -> ComputedDefault:
        """A default that depends on the job's type.

        Args:
            values: The default for each group of types.
        """
        flat = {job_type: value for types, value in values.items() for job_type in types}
        text = "; ".join(f"{value} for {', '.join(f'`{each}`' for each in types)}" for types, value in values.items())
        # A job of a wrong type fails anyway: any legal value keeps further messages out of its list of problems.
        anything = next(iter(flat.values()))
        return cls(lambda data, _: flat.get(data.get("type", ""), anything), text)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._fill, handler(source))

    def _fill(self, value: object, info: ValidationInfo) -> object:
        return self.compute(info.data, Context.of(info)) if value is None else value


def refuse(allowed: str, *, sent: str | None = None, nearest: object = None, field: str | None = None) -> PydanticCustomError:
    """What a validator raises when a value is wrong for a reason that its type does not tell.

    Args:
        allowed: Completes the sentence "must be …".
        sent: What was sent, where the value itself does not say it or must not be shown.
        nearest: The nearest allowed value.
        field: The name of the field that is to be blamed, if not the validated one.
    """
    return PydanticCustomError("refused", "must be {allowed}", {"allowed": allowed, "sent": sent, "nearest": nearest, "field": field})
