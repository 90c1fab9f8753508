"""Loads one network from a local folder onto the device, checks that it is complete, and logs the throughput."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from shared.telemetry import logger
from shared.weights.errors import WeightsError, weights_error
from shared.weights.folders import is_half, unsafe_references, weight_files

# Buffers that are computed, training state, and the other half of a model of which only one encoder is used.
_WITHOUT_EFFECT = re.compile(
    r"position_ids$|inv_freq$|logit_scale$|num_batches_tracked$|masked_bias$|attn\.bias$|model_ema"
    r"|^(?:vision_model|visual_projection|text_projection|decoder|lm_head)\."
)


def load_network(cls: Any, folder: Path, *, name: str, device: torch.device, dtype: torch.dtype, **options: Any) -> Any:
    """Loads one network for inference.

    Weights are read from `.safetensors` files only, and the hub is never contacted. Of a folder with both precisions, the files closer to
    `dtype` are read. The network is frozen and in evaluation mode.

    Args:
        cls: The class, with a `from_pretrained` like those of diffusers and transformers.
        folder: The network's own folder: a `config.json` and weights.
        name: The network in messages and log lines.
        device: Where the weights are loaded to directly, without a copy on the host.
        dtype: The precision. Modules that the class declares to need float32 keep it.
        options: Passed on to `from_pretrained`.

    Returns:
        The network, an instance of `cls` or of the class that `cls` chooses.

    Raises:
        WeightsError: The weights are damaged, incomplete or of another model, or the folder refers to files other than `.safetensors`.
    """
    started = time.perf_counter()
    if reasons := unsafe_references(folder):
        raise WeightsError(name, "; ".join(reasons))
    files = weight_files(folder, half=dtype == torch.float16)
    variant = "fp16" if files and is_half(files[0]) else None
    network, report = _from_pretrained(cls, folder, name, dtype=dtype, device_map={"": device}, variant=variant, **options)
    if unknown := sorted(key for key in report["unexpected_keys"] if not _WITHOUT_EFFECT.search(key)):
        raise WeightsError(name, f"{len(unknown)} tensors do not belong to this model ({_first_few(unknown)})")
    network.requires_grad_(False)
    network.eval()
    check_network(network, name=name, dtype=dtype, missing=report["missing_keys"])
    size = sum(path.stat().st_size for path in files)
    log_loaded(name, size, time.perf_counter() - started, unused=len(report["unexpected_keys"]))
    return network


def check_network(network: nn.Module, *, name: str, dtype: torch.dtype, missing: Collection[str] = ()) -> None:
    """Checks that a network is complete: the libraries initialise missing tensors at random or leave them on the meta device.

    Args:
        network: The loaded network.
        name: The network in the message.
        dtype: The requested precision.
        missing: The tensors that the loader did not find.

    Raises:
        WeightsError: A tensor is missing, on the meta device, of another precision, or not finite.
    """
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    fp32_modules = tuple(getattr(network, "_keep_in_fp32_modules", None) or ())
    wrong = {
        "missing": sorted(missing),
        "on the meta device": [key for key, tensor in tensors.items() if tensor.is_meta],
        f"not in {dtype}": [
            key for key, tensor in network.named_parameters() if tensor.dtype != dtype and not _may_be_fp32(key, tensor, fp32_modules)
        ],
    }
    if not wrong["on the meta device"]:
        wrong["not finite: NaN, Inf or beyond the precision's range"] = [
            key for key, tensor in network.named_parameters() if not _is_finite(tensor)
        ]
    reasons = [f"{len(keys)} tensors are {what} ({_first_few(keys)})" for what, keys in wrong.items() if keys]
    if reasons:
        raise WeightsError(name, "; ".join(reasons))


def silence(*libraries: Any) -> None:
    """Turns off the progress bars of diffusers or transformers, and their log messages below error level.

    Args:
        libraries: Their `utils.logging` modules.
    """
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()


def log_loaded(name: str, size: int, seconds: float, *, unused: int = 0) -> None:
    """Logs that a network was loaded, and at what throughput.

    Args:
        name: The network in the log line.
        size: The bytes read.
        seconds: The time from opening its files until it was ready.
        unused: How many tensors of its files it does not have.
    """
    logger().info(
        "loaded", component=name, seconds=round(seconds, 3), bytes=size, gb_per_s=round(size / seconds / 1e9, 3), unused_tensors=unused
    )


def _from_pretrained(cls: Any, folder: Path, name: str, **options: Any) -> tuple[Any, Any]:
    """The network, and the library's report of missing and unexpected tensors."""
    try:
        network, report = cls.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # an error of the device, not of the files
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise weights_error(name, error) from error
    return network, report


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite. Sums of the extremes need no copy of the tensor."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    values = tensor.float() if tensor.element_size() == 1 else tensor  # 8-bit floats have no comparison
    low, high = values.aminmax()
    return bool((low.isfinite() & high.isfinite()).item())


def _may_be_fp32(key: str, tensor: torch.Tensor, fp32_modules: Sequence[str]) -> bool:
    return tensor.dtype == torch.float32 and any(part in key for part in fp32_modules)


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
