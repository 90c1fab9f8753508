"""Field metadata: location in the request body, aliases, computed default.

A field is added with one declaration. Parsing, error messages, schemas, TypeScript types and documentation tables are derived from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from shared.contract.context import Context

Section = Literal["top", "config", "metadata"]

SECTIONS: tuple[Section, ...] = ("config", "top", "metadata")
"""The sections of a request body, in order of precedence."""

UNSET: Any = None
"""The default of a field that has a `ComputedDefault`."""


@dataclass(frozen=True)
class FieldLocation:
    """Where a field stands in the request body.

    Attributes:
        path: The canonical path: `config.steps`, or `prompt` at the top level.
        aliases: Other names, tried after the canonical one in each section; `metadata.x` is tried only there.
        sections: The sections that are searched.
        must_agree: Whether all given names must have the same value.
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
        """Every section and name under which the field may stand, in order of precedence."""
        for section in SECTIONS:
            names = [alias.rpartition(".") for alias in (self.name, *self.aliases)]
            fitting = [name for head, _, name in names if head == section or (not head and section in self.sections)]
            yield from ((section, name) for name in dict.fromkeys(fitting))

    def documented_aliases(self) -> Iterator[tuple[Section, str]]:
        """The aliases with the section that the documentation lists them under: their own, else that of the canonical name."""
        own = {alias.rpartition(".")[2]: _section(alias.rpartition(".")[0]) for alias in self.aliases if "." in alias}
        yield from ((own.get(name, self.section), name) for name in dict.fromkeys(alias.rpartition(".")[2] for alias in self.aliases))


def _section(name: str) -> Section:
    return next(section for section in SECTIONS if section == name)


def path_of(section: Section, name: str) -> str:
    """Returns the path of a name: `config.steps`, `prompt`."""
    return name if section == "top" else f"{section}.{name}"


def field_locations(model: type[BaseModel]) -> dict[str, FieldLocation]:
    """Returns the locations of a request's fields, in order of declaration."""
    return {name: part for name, field in model.model_fields.items() for part in field.metadata if isinstance(part, FieldLocation)}


Compute = Callable[[Mapping[str, Any], Context], object]


@dataclass(frozen=True)
class ComputedDefault:
    """A default that is computed from the fields declared before it. Invalid fields are missing from the mapping.

    Attributes:
        compute: Returns the value, or raises an error of `shared.contract.rejections`.
        text: The default as documented.
    """

    compute: Compute
    text: str

    @classmethod
    def by_type(cls, values: Mapping[tuple[str, ...], object]) -> ComputedDefault:
        """Returns a default that depends on the job's type.

        Args:
            values: The default for each group of types.
        """
        flat = {job_type: value for types, value in values.items() for job_type in types}
        text = "; ".join(f"{value} for {', '.join(f'`{each}`' for each in types)}" for types, value in values.items())
        # A job of an invalid type fails anyway: any valid value avoids follow-up problems.
        fallback = next(iter(flat.values()))
        return cls(lambda data, _: flat.get(data.get("type", ""), fallback), text)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._fill, handler(source))

    def _fill(self, value: object, info: ValidationInfo) -> object:
        return self.compute(info.data, Context.of(info)) if value is None else value
