"""Finds alpha, the strength that a LoRA was trained with: per layer, in peft's adapter configuration, or in kohya's header."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import regex

_PATTERN_TIMEOUT = 0.1
_PATTERN_LENGTH = 500


def adapter_config(header: Mapping[str, str]) -> Mapping[str, Any]:
    """Returns the adapter configuration of a file's header: peft's, as diffusers stores it, or kohya's.

    Raises:
        ValueError: It is not a JSON object.
    """
    config = _parsed(header.get("lora_adapter_metadata", "{}"))
    if not isinstance(config, dict):
        raise ValueError("the adapter metadata is not an object")
    return config or _kohya_config(header)


def _kohya_config(header: Mapping[str, str]) -> dict[str, Any]:
    """The values of kohya's header, and the plain ones that peft-based trainers write. They hold for every component."""
    arguments = _parsed(header.get("ss_network_args") or "{}")
    config = {
        "lora_alpha": header.get("lora_alpha", header.get("ss_network_alpha")),
        "conv_alpha": arguments.get("conv_alpha") if isinstance(arguments, dict) else None,
    }
    return {key: value for key, value in config.items() if value not in (None, "None")}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the adapter metadata is nested too deeply") from None


def scaling(config: Mapping[str, Any], component: str, names: Sequence[str], rank: int | None, *, kernel: bool) -> float:
    """Returns the scaling of a layer without an alpha of its own; 1 if the configuration has none either.

    Args:
        config: The adapter configuration.
        component: The component of the pipeline, the prefix of its entries.
        names: The layer's names, in the file and in the model, which peft's patterns are matched with.
        rank: Its rank; None for a LoKr of whole factors, which only peft scales, by the configured rank.
        kernel: Whether the layer is a convolution over more than one pixel, for which kohya has an alpha of its own.

    Raises:
        TypeError, ValueError, AttributeError: A value is not of its type.
    """

    def entry(key: str) -> Any:
        return config.get(f"{component}.{key}", config.get(key))

    if (rank := rank or entry("r")) is None:
        return 1.0
    alpha = entry("lora_alpha") if entry("lora_alpha") is not None else entry("alpha")
    if kernel and entry("conv_alpha") is not None:
        alpha = entry("conv_alpha")
    patterns: Mapping[str, Any] = entry("alpha_pattern") or {}
    alpha = next((value for pattern, value in patterns.items() if any(_matches(pattern, name) for name in names)), alpha)
    return float(rank if alpha is None else alpha) / (math.sqrt(rank) if entry("use_rslora") else rank)


def _matches(pattern: str, name: str) -> bool:
    """Whether a pattern selects a layer by the rule of peft's `get_pattern_key`.

    Raises:
        ValueError: It is not a regular expression, or takes too long.
    """
    if len(pattern) > _PATTERN_LENGTH:
        raise ValueError("a pattern is too long")
    try:
        return regex.match(rf"(.*\.)?({pattern})$", name, timeout=_PATTERN_TIMEOUT) is not None
    except (regex.error, TimeoutError) as error:
        raise ValueError("a pattern cannot be matched") from error
