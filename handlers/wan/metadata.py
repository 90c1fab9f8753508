"""What payloads report about a clip: the effective settings, the references, the accelerations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from handlers.wan.features.reference import conditioning_scale
from handlers.wan.request import WanRequest


def output_metadata(request: WanRequest, accelerations: Sequence[str], *, vace: bool) -> dict[str, JsonValue]:
    """Returns the metadata of the clip or image.

    Args:
        request: The request.
        accelerations: The ones that were applied.
        vace: Whether references go through VACE.
    """
    metadata: dict[str, JsonValue] = {
        "batch_size": 1,
        "steps": request.steps,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "sample_solver": request.sample_solver,
        "sample_shift": request.sample_shift,
        "acceleration": request.acceleration,
    }
    if request.acceleration != "none":
        metadata["accelerated_by"] = list(accelerations)
    if request.loras:
        metadata["loras"] = [{"name": lora.name, "scale": lora.scale} for lora in request.loras]
    if request.references and vace:
        metadata["conditioning_scale"] = conditioning_scale(request.reference_strength)
    return metadata


def job_metadata(request: WanRequest, *, vace: bool, model_name: str, device: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Returns the metadata of the job.

    Args:
        request: The request.
        vace: Whether references go through VACE.
        model_name: The name of the weights.
        device: The device's name and memory.
    """
    metadata: dict[str, JsonValue] = {
        "model_used": model_name,
        "enhancement_source": "none",
        "auto_enhancement": False,
        "compel_enhancement": False,
        "reference_mode": request.reference_mode,
        "exact_copy_mode": False,
        **device,
    }
    if request.references:
        metadata |= {"reference_method": "vace" if vace else "image_to_video", "reference_strength": request.reference_strength}
    return metadata
