"""One network, one tokenizer: read from a local folder straight onto the device, checked, and logged with its speed."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from shared.settings import SettingsError
from shared.telemetry import logger
from shared.weights.folders import is_half, led_astray, weight_files

# A tokenizer may have fewer tokens than its model has rows (rows are padded to a round number), but not many fewer.
_LEAST_SHARE_OF_ROWS = 0.9


def load_network(kind: Any, folder: Path, *, name: str, device: torch.device, dtype: torch.dtype, **options: Any) -> Any:
    """Loads one network for inference.

    Its weights come from `.safetensors` files only, and no hub is asked. Where the folder has files in both precisions, those nearer to
    `dtype` are read. The network is frozen and in evaluation mode.

    Args:
        kind: The class, with a `from_pretrained` as in diffusers and transformers.
        folder: The network's own folder: a `config.json` and weights.
        name: What messages and log lines call it.
        device: Where its weights go; they are not copied on the way.
        dtype: The precision. What the class declares to need float32 keeps it.
        options: Handed on to `from_pretrained`.

    Returns:
        The network, an instance of `kind` or of the class that `kind` chooses.

    Raises:
        SettingsError: The weights are damaged, incomplete or of another model, or their folder names other files than `.safetensors`.
    """
    started = time.perf_counter()
    if reasons := led_astray(folder):
        raise _unusable(name, reasons)
    files = weight_files(folder, half=dtype == torch.float16)
    variant = "fp16" if files and is_half(files[0]) else None
    network, report = _read(kind, folder, name, dtype=dtype, device_map={"": device}, variant=variant, **options)
    network.requires_grad_(False)
    network.eval()
    check_network(network, name=name, dtype=dtype, missing=report["missing_keys"])
    size = sum(path.stat().st_size for path in files)
    log_loaded(name, size, time.perf_counter() - started, unused=len(report["unexpected_keys"]))
    return network


def check_network(network: nn.Module, *, name: str, dtype: torch.dtype, missing: Collection[str] = ()) -> None:
    """Makes sure that a network is whole, because the libraries fill gaps with random or absent numbers and only log it.

    Args:
        network: The network as it was loaded.
        name: What the message calls it.
        dtype: The precision that was asked for.
        missing: The tensors that the loader did not find.

    Raises:
        SettingsError: A tensor is missing, is nowhere in memory, or has another precision.
    """
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    kept = tuple(getattr(network, "_keep_in_fp32_modules", None) or ())
    wrong = {
        "missing": sorted(missing),
        "without numbers": [key for key, tensor in tensors.items() if tensor.is_meta],
        f"not in {dtype}": [
            key for key, tensor in network.named_parameters() if tensor.dtype != dtype and not _may_be_full(key, tensor, kept)
        ],
    }
    reasons = [f"{len(keys)} tensors are {what} ({_some(keys)})" for what, keys in wrong.items() if keys]
    if reasons:
        raise _unusable(name, reasons)


def load_tokenizer(kind: Any, folder: Path, *, name: str, rows: int, needs: Sequence[str], **options: Any) -> Any:
    """Loads one tokenizer.

    Args:
        kind: The class, with a `from_pretrained` as in transformers.
        folder: The tokenizer's folder.
        name: What messages call it.
        rows: How many tokens its model has embeddings for.
        needs: Special tokens without which the model cannot be used: `bos`, `eos`, `pad`.
        options: Handed on to `from_pretrained`.

    Raises:
        SettingsError: The files are damaged or missing (the libraries then make a tokenizer of three tokens and say nothing), the
            vocabulary belongs to another model, or a special token is not defined.
    """
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise unusable(name, error) from error
    reasons = []
    if not rows * _LEAST_SHARE_OF_ROWS <= len(tokenizer) <= rows:
        reasons.append(f"it has {len(tokenizer)} tokens, but its model has {rows}")
    reasons += [f"it has no {token} token" for token in needs if getattr(tokenizer, f"{token}_token_id") is None]
    if reasons:
        raise _unusable(name, reasons)
    return tokenizer


def quiet(*libraries: Any) -> None:
    """Silences the progress bars of diffusers or transformers, and their log below errors.

    Args:
        libraries: Their `utils.logging` modules.
    """
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()


def log_loaded(name: str, size: int, seconds: float, *, unused: int = 0) -> None:
    """Logs that a network is there, and how fast it came.

    Args:
        name: What log lines call it.
        size: In bytes, as read.
        seconds: From the first look at its files to its use.
        unused: How many tensors of its files are none of its own.
    """
    logger().info(
        "loaded", component=name, seconds=round(seconds, 3), bytes=size, gb_per_s=round(size / seconds / 1e9, 3), unused_tensors=unused
    )


def unusable(name: str, error: Exception) -> SettingsError:
    """What is raised when a library cannot read weights.

    Args:
        name: What messages call them.
        error: What the library raised.
    """
    return _unusable(name, [_reason(error)])


def _read(kind: Any, folder: Path, name: str, **options: Any) -> tuple[Any, Any]:
    """What the library makes of a folder, and its report of what it found there."""
    try:
        network, report = kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # of the device, not of the files
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise unusable(name, error) from error
    return network, report


def _may_be_full(key: str, tensor: torch.Tensor, kept: Sequence[str]) -> bool:
    return tensor.dtype == torch.float32 and any(part in key for part in kept)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _reason(error: Exception) -> str:
    # What torch says when it is asked to move a tensor that has no numbers, which here is one that no file had. An operation that it lacks
    # in some precision is of the same type.
    if isinstance(error, NotImplementedError) and "meta tensor" in str(error):
        return "tensors are missing from its files"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unusable(name: str, reasons: Sequence[str]) -> SettingsError:
    return SettingsError(f"The weights of {name} cannot be used: {'; '.join(reasons)}. Copy them again, or name other ones.")
