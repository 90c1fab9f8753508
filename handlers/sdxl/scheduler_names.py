"""The scheduler names of the request contract, and the schedulers that allow fewer than ten steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

SchedulerName = Literal[
    "ddim", "ddpm", "euler", "euler_karras", "euler_a", "heun", "dpm2", "dpm2_a", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde",
    "dpmpp_2m_sde_karras", "dpmpp_3m", "dpmpp_sde", "unipc", "deis", "pndm", "lcm", "tcd", "ddim_trailing", "euler_trailing",
]  # fmt: skip

MIN_STEPS: Mapping[SchedulerName, int] = {"lcm": 1, "tcd": 1, "ddim_trailing": 1, "euler_trailing": 1}
"""Schedulers for distilled models need fewer than the usual minimum of ten steps."""

STEPS = f"a whole number from 10 to 50 (from 1 with the schedulers {', '.join(list(MIN_STEPS)[:-1])} and {list(MIN_STEPS)[-1]})"
"""The steps that a request may ask for, as messages state them."""
