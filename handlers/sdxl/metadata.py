"""What a job's payload says of its references: what was really done with them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from handlers.sdxl.features import img2img as image_to_image
from handlers.sdxl.features import ip_adapter as adapters
from handlers.sdxl.features.img2img import effective_strength
from handlers.sdxl.features.ip_adapter import wanted
from handlers.sdxl.request import SdxlRequest


def use_of_references(request: SdxlRequest, served: SdxlRequest) -> dict[str, JsonValue]:
    """The method, what it was for, and its effective strength, where there is one for all.

    Args:
        request: As the caller asked.
        served: As the worker serves it: perhaps by another method.
    """
    method, looked_at = served.reference_method, wanted(served)
    types = list(dict.fromkeys(each.type for each in looked_at))
    done: dict[str, JsonValue] = {"reference_mode": _mode(request, types), "exact_copy_mode": method == "copy"}
    if method == "none" and not looked_at:
        return done
    if method in ("none", "adapter"):
        strengths = {each.strength for each in looked_at}
        done["reference_method"] = "adapter"
        return done | ({"reference_strength": strengths.pop()} if len(strengths) == 1 else {})
    used = 0.0 if method == "copy" else effective_strength(served)
    return done | {"reference_method": method, "reference_strength": round(1 - used, 6), "denoise_strength": used}


def warnings(served: SdxlRequest) -> list[str]:
    """What the caller should know about what was done."""
    return [*image_to_image.warnings(served), *adapters.warnings(served)]


def _mode(request: SdxlRequest, types: Sequence[str]) -> str:
    """As the contract reports it: `modify`, `copy`, or the types of what was to be resembled."""
    match request.reference_method:
        case "copy":
            return "copy"
        case "img2img" | "inpaint":
            return "modify"
        case "adapter" if not types:
            return request.reference_type
    return ", ".join(types) or "none"
