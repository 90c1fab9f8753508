"""The scheduler names of the request contract, and the schedulers that allow fewer than ten steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

SchedulerName = Literal[
    "ddim", "ddpm", "euler", "euler_karras", "euler_a", "heun", "dpm2", "dpm2_a", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde",
    "dpmpp_2m_sde_karras", "dpmpp_3m", "dpmpp_sde", "unipc", "deis", "pndm", "lcm", "tcd",
]  # fmt: skip

MIN_STEPS: Mapping[SchedulerName, int] = {"lcm": 1, "tcd": 1}
"""Schedulers for distilled models need fewer than the usual minimum of ten steps."""
