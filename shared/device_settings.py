"""The settings of the device that models run on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class DeviceSettings(BaseSettings):
    """The part of `Settings` that says what models run on, and how."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="Device of the models; `auto` uses a GPU if there is one.")
    device_memory_gb: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="GB of GPU memory that WAN may use; if unset, all. On a CPU, the memory of the simulated GPU.",
    )
    compile_models: bool = Field(
        True,
        description="Compile SDXL and WAN for the GPU while the worker is idle. No job waits for it, and results differ by rounding. "
        "Compiled code is kept in `/runpod-volume/compiled`, or where torch's own `TORCHINDUCTOR_CACHE_DIR` says.",
    )

    @property
    def device_memory(self) -> int | None:
        """`DEVICE_MEMORY_GB` in bytes."""
        return None if self.device_memory_gb is None else int(self.device_memory_gb * 1e9)
