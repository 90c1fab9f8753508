"""The names of SDXL's samplers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Scheduler = Literal[
    "ddim", "ddpm", "euler", "euler_karras", "euler_a", "heun", "dpm2", "dpm2_a", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde",
    "dpmpp_2m_sde_karras", "dpmpp_3m", "dpmpp_sde", "unipc", "deis", "pndm", "lcm", "tcd",
]  # fmt: skip
"""The names of the samplers."""

FEWEST_STEPS: Mapping[Scheduler, int] = {"lcm": 1, "tcd": 1}
"""Schedulers that need fewer than the usual ten steps."""
