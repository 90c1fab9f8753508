"""Reads from a single-file checkpoint what its UNet predicts, and with which noise schedule it was trained.

The configuration of a checkpoint is the published one of SDXL, which predicts noise. Models that predict the velocity say so by marker
tensors (`v_pred`, `ztsnr`) or in their header; with the wrong schedule they draw noise.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from shared.weights.errors import WeightsError, weights_error

MARKERS = frozenset({"v_pred", "ztsnr"})
"""Tensors that only say how a model was trained."""

_EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_sigma_max")
_PREDICTION_TYPES = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "v_pred": "v_prediction",
    "sample": "sample",
}
_ADVICE = "Use a checkpoint that predicts epsilon or v, or a diffusers folder with its own scheduler."
_TRUE = "true"


def scheduler_overrides(file: Path) -> dict[str, Any]:
    """Returns the values of the scheduler's configuration that a checkpoint determines.

    Args:
        file: The checkpoint.

    Raises:
        WeightsError: It is damaged, contradicts itself, or was trained in a way that this worker does not support.
    """
    try:
        with safe_open(file, "pt") as opened:
            keys, header = frozenset(opened.keys()), dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise weights_error("sdxl", error) from error
    if edm := [key for key in _EDM if key in keys]:
        raise WeightsError(
            "sdxl", f"the checkpoint was trained with EDM's noise schedule ({edm[0]!r}), which is not supported", advice=_ADVICE
        )
    prediction = _prediction_type(keys, header)
    overrides: dict[str, Any] = {} if prediction is None else {"prediction_type": prediction}
    if "ztsnr" in keys or header.get("ss_zero_terminal_snr", "").lower() == _TRUE:
        overrides |= _zero_terminal_snr(prediction)
    return overrides


def schedule_problem(scheduler: Any, config: Mapping[str, Any]) -> str | None:
    """Returns why a scheduler cannot sample a model, and would draw noise; None if it can.

    Args:
        scheduler: The class.
        config: The configuration of the model's own scheduler.
    """
    if scheduler.__name__ == "PNDMScheduler" and config.get("prediction_type") == "v_prediction":
        return "v-prediction"  # its multistep formula combines outputs of several timesteps, which is right for noise only
    supported = inspect.signature(scheduler.__init__).parameters
    return "zero terminal SNR" if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in supported else None


def _zero_terminal_snr(prediction: str | None) -> dict[str, Any]:
    if prediction != "v_prediction":
        raise WeightsError(
            "sdxl", "the checkpoint has zero terminal SNR ('ztsnr') but does not predict the velocity ('v_pred')", advice=_ADVICE
        )
    # arXiv 2305.08891: sampling must then start at the last timestep.
    return {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def _prediction_type(keys: frozenset[str], header: Mapping[str, str]) -> str | None:
    """What the UNet predicts; None if the file does not say."""
    claims = {"v_pred": "v_prediction"} if "v_pred" in keys else {}
    if (declared := header.get("modelspec.prediction_type")) is not None:
        known = _PREDICTION_TYPES.get(declared.strip().lower())
        if known is None:
            raise WeightsError("sdxl", f"modelspec.prediction_type is {declared[:60]!r}, which is not supported", advice=_ADVICE)
        claims["modelspec.prediction_type"] = known
    if header.get("ss_v_parameterization", "").lower() == _TRUE:
        claims["ss_v_parameterization"] = "v_prediction"
    if len(set(claims.values())) > 1:
        raise WeightsError(
            "sdxl", f"the checkpoint contradicts itself about its prediction type ({', '.join(sorted(claims))})", advice=_ADVICE
        )
    return next(iter(claims.values()), None)
