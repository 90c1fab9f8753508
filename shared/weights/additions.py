"""What an operator may put beside a model: where it is published, under which licence, how large it is. No worker fetches it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Addition:
    """One file, or one folder with a configuration.

    Attributes:
        place: Where it belongs, relative to `MODELS_DIR`.
        repo: The repository on the Hugging Face hub, `owner/name`.
        path: Its path there.
        licence: As the repository states it.
        size: What it takes on disk, in bytes, rounded to 10 MB.
        serves: What it is for.
    """

    place: str
    repo: str
    path: str
    licence: str
    size: int
    serves: str


_MB = 1000**2
_ADAPTER = "h94/IP-Adapter"
_COMPOSITION = "ostris/ip-composition-adapter"

IP_ADAPTERS: tuple[Addition, ...] = (
    Addition(
        "ip_adapters/image_encoder", _ADAPTER, "models/image_encoder", "Apache-2.0", 2530 * _MB, "all adapters: it looks at references"
    ),
    Addition(
        "ip_adapters/ip-adapter_sdxl_vit-h.safetensors",
        _ADAPTER,
        "sdxl_models/ip-adapter_sdxl_vit-h.safetensors",
        "Apache-2.0",
        700 * _MB,
        "style, composition",
    ),
    Addition(
        "ip_adapters/ip-adapter-plus_sdxl_vit-h.safetensors",
        _ADAPTER,
        "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
        "Apache-2.0",
        850 * _MB,
        "character; style and composition where the first is not there",
    ),
    Addition(
        "ip_adapters/ip-adapter-plus-face_sdxl_vit-h.safetensors",
        _ADAPTER,
        "sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors",
        "Apache-2.0",
        850 * _MB,
        "character, before the one above: for faces",
    ),
    Addition(
        "ip_adapters/ip_plus_composition_sdxl.safetensors",
        _COMPOSITION,
        "ip_plus_composition_sdxl.safetensors",
        "Apache-2.0",
        850 * _MB,
        "composition, before all others",
    ),
)
"""For references of SDXL. All look through the same image encoder."""
