"""Objects inside a request: a LoRA, a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from shared.contract.context import Context
from shared.contract.names import Vocabulary, show_name

# Fuzzy matching is slow, so the number of suggestions per request is bounded.
_MAX_SUGGESTIONS = 4


class NestedModel(BaseModel):
    """An object inside a request. As at the top, `null` means absent, and unknown names are ignored with a warning."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", validate_default=True, allow_inf_nan=False)

    location: ClassVar[str]
    """The path of the object, for warnings: `config.loras[]`."""

    @model_validator(mode="before")
    @classmethod
    def _drop_absent_and_unknown(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, Mapping):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        unknown = sorted((name for name in value.keys() - known if value[name] is not None), key=str)
        for name in unknown[:_MAX_SUGGESTIONS]:
            meant = Vocabulary((field, field) for field in known).nearest(name)
            Context.of(info).warnings.add_unknown(f"{cls.location}.{show_name(name)}", meant)
        Context.of(info).warnings.add_omitted(max(0, len(unknown) - _MAX_SUGGESTIONS))
        return {name: inner for name, inner in value.items() if name in known and inner is not None}
