"""Payload metadata and warnings about how references were used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from handlers.sdxl.features import img2img, ip_adapter
from handlers.sdxl.request import SdxlRequest

NO_REFERENCES: Mapping[str, JsonValue] = {"reference_mode": "none", "exact_copy_mode": False}
"""The metadata of a job without references."""


def reference_metadata(request: SdxlRequest, effective: SdxlRequest) -> dict[str, JsonValue]:
    """Returns the reference method, its mode, and its effective strength if there is a single one.

    Args:
        request: The caller's request.
        effective: The request as this worker serves it, possibly by another method.
    """
    method = effective.reference_method
    references = ip_adapter.adapter_references(effective)
    types = list(dict.fromkeys(each.type for each in references))
    metadata: dict[str, JsonValue] = {"reference_mode": _mode(request, types), "exact_copy_mode": method == "copy"}
    if method in ("none", "adapter"):
        strengths = {each.strength for each in references}
        metadata["reference_method"] = "adapter"
        return metadata | ({"reference_strength": strengths.pop()} if len(strengths) == 1 else {})
    strength = 0.0 if method == "copy" else img2img.effective_strength(effective)
    return metadata | {"reference_method": method, "reference_strength": round(1 - strength, 6), "denoise_strength": strength}


def reference_warnings(effective: SdxlRequest) -> list[str]:
    """Returns the warnings about references that were used differently than requested, or not at all."""
    method = effective.reference_method
    raised = img2img.warnings(effective) if method in ("img2img", "inpaint") else []
    unused = ip_adapter.warnings(effective) if method == "adapter" or effective.adapter_references else []
    return [*raised, *unused]


def _mode(request: SdxlRequest, types: Sequence[str]) -> str:
    """Returns the contract's value: `copy`, `modify`, or the reference types of the IP-Adapters."""
    match request.reference_method:
        case "copy":
            return "copy"
        case "img2img" | "inpaint":
            return "modify"
        case "adapter" if not types:
            return request.reference_type
    return ", ".join(types)
