"""Objects inside a request: a LoRA, a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from shared.contract.context import Context
from shared.contract.names import Vocabulary, show_name

# Looking for what was meant takes time, and no request may take much of it.
_MOST_HINTS = 4


class NestedModel(BaseModel):
    """An object inside a request. In it, too, `null` means absent and an unknown name is named in a warning."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", validate_default=True, allow_inf_nan=False)

    location: ClassVar[str]
    """Where the object stands, for warnings: `config.loras[]`."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, Mapping):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        unknown = sorted(value.keys() - known, key=str)
        for name in unknown[:_MOST_HINTS]:
            meant = Vocabulary((field, field) for field in known).nearest(name)
            hint = f"; did you mean {meant}?" if meant is not None else ""
            Context.of(info).warnings.add(f"{cls.location}.{show_name(name)}: not a known field, ignored{hint}")
        Context.of(info).warnings.add_omitted(max(0, len(unknown) - _MOST_HINTS))
        return {name: inner for name, inner in value.items() if name in known and inner is not None}
