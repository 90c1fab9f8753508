"""The catalogue of weights: repository, pinned revision, files, licence and size of each set, and the handler that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["diffusers", "transformers"]
"""`diffusers`: a `model_index.json` and a folder for each component. `transformers`: one folder with a `config.json`."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One catalogue entry.

    Attributes:
        name: The name of its folder in `MODELS_DIR`, and in messages.
        repo: The repository on the Hugging Face hub, `owner/name`.
        revision: The pinned commit, 40 hexadecimal digits. None: not pinned, so a worker never downloads it.
        layout: The layout of its folder.
        patterns: The required files of the repository.
        licence: As stated by the repository.
        size: The total size of these files in bytes, rounded to 10 MB.
        used_by: The handler.
        single_file: Whether a single `.safetensors` file of the same name is accepted instead of the folder.
    """

    name: str
    repo: str
    revision: str | None
    layout: Layout
    patterns: tuple[str, ...]
    licence: str
    size: int
    used_by: Literal["sdxl", "wan", "chat"]
    single_file: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that may hold an explicit path."""
        return f"{self.name.upper()}_MODEL"


_GB = 1000**3

SDXL = Weights(
    name="sdxl",
    repo="stabilityai/stable-diffusion-xl-base-1.0",
    revision="462165984030d82259a11f4367a4eed129e94a7b",
    layout="diffusers",
    patterns=("model_index.json", "scheduler/*.json", "tokenizer/*", "tokenizer_2/*", "*/config.json", "*/*.fp16.safetensors"),
    licence="CreativeML Open RAIL++-M",
    size=int(6.94 * _GB),
    used_by="sdxl",
    single_file=True,
)
"""Half precision: the full-precision files are twice as large, and would be cast anyway."""

WAN = Weights(
    name="wan",
    repo="Wan-AI/Wan2.1-VACE-1.3B-diffusers",
    revision="ec4d2cb062b548996b179d493fdd05340de702a1",
    layout="diffusers",
    patterns=("model_index.json", "scheduler/*", "tokenizer/*", "text_encoder/*", "transformer/*", "vae/*"),
    licence="Apache-2.0",
    size=int(19.04 * _GB),
    used_by="wan",
)
"""Text-to-video, with VACE's blocks for reference images. The text encoder alone is 11.4 GB."""

QWEN_INSTRUCT = Weights(
    name="qwen_instruct",
    repo="Qwen/Qwen2.5-7B-Instruct",
    revision="a09a35458c702b33eeacc393d103063234e8bc28",
    layout="transformers",
    patterns=("*.json", "*.safetensors", "merges.txt"),
    licence="Apache-2.0",
    size=int(15.24 * _GB),
    used_by="chat",
)

QWEN_BASE = Weights(
    name="qwen_base",
    repo="Qwen/Qwen2.5-7B",
    revision="d149729398750b98c0af14eb82c78cfe92750796",
    layout="transformers",
    patterns=("*.json", "*.safetensors", "merges.txt"),
    licence="Apache-2.0",
    size=int(15.24 * _GB),
    used_by="chat",
)

CATALOGUE: tuple[Weights, ...] = (SDXL, WAN, QWEN_INSTRUCT, QWEN_BASE)
