"""The errors that validators raise where a type cannot express the rule: a value that is not allowed, a conflict, a missing requirement.

`shared.contract.problems` turns them into `Problem`s: fields named here become canonical paths, such as `metadata.reference_image_url`.
"""

from __future__ import annotations

from pydantic_core import PydanticCustomError

VALUE, CONFLICT, REQUIREMENT = "value_rejected", "fields_conflict", "field_required_by_another"
"""Types of these errors, as pydantic reports them."""


def refuse(allowed: str, *, sent: str | None = None, nearest: object = None, field: str | None = None) -> PydanticCustomError:
    """Rejects a value: "`config.steps` must be {allowed}; got {sent} (nearest: {nearest})".

    Args:
        allowed: Completes the sentence "must be …".
        sent: Replaces the value in the message, where the value alone is unclear or must not be shown.
        nearest: The nearest allowed value.
        field: The field at fault, if not the validated one.
    """
    return PydanticCustomError(VALUE, "must be {allowed}", {"allowed": allowed, "sent": sent, "nearest": nearest, "field": field})


def conflict(field: str, *others: str) -> PydanticCustomError:
    """Rejects a combination of fields: "`config.refiner` cannot be combined with `config.mask`". Shows no value.

    Args:
        field: A field of the request.
        others: The fields that it cannot be combined with.
    """
    return PydanticCustomError(CONFLICT, "fields conflict", {"subject": field, "others": list(others)})


def requires(field: str, *others: str) -> PydanticCustomError:
    """Rejects a field without another one: "`config.mask` requires `metadata.reference_image_url`". Shows no value.

    Args:
        field: A field of the request, or a condition such as `stream: true`.
        others: The fields that it requires, all of them.
    """
    return PydanticCustomError(REQUIREMENT, "a field requires another one", {"subject": field, "others": list(others)})
