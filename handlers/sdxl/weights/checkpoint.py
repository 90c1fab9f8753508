"""SDXL's networks from one file in the original layout, the one that most SDXL models are published in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from handlers.sdxl.weights.original_names import text_2_name, unet_name, vae_name
from shared.models.load import check_network, log_loaded, unusable

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
"""How the names of each network's tensors begin."""

CONFIGURATION = Path(__file__).with_name("sdxl_config")
"""The published configuration: a diffusers folder without weights."""

_JOINED = re.compile(r"(.+)\.([qkv])_proj\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a network's tensor is in the file.

    Attributes:
        name: The tensor's name there.
        third: Which third of its rows, where the original joins queries, keys and values.
        transposed: Whether its rows are columns there.
    """

    name: str
    third: int | None = None
    transposed: bool = False


def configuration_of(file: Path) -> Path:
    """The diffusers folder that says how a checkpoint's networks are made: the folder of the file's name beside it, else the published one.

    Args:
        file: `…/model.safetensors`; a folder `…/model` with a `model_index.json` counts.
    """
    own = file.with_suffix("")
    return own if (own / "model_index.json").is_file() else CONFIGURATION


def load_part(kind: Any, file: Path, folder: Path, *, component: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Loads one network of a checkpoint for inference.

    Each tensor goes from the mapped file to the device by itself, so that the host never holds a second copy of the weights. The network
    is frozen and in evaluation mode.

    Args:
        kind: The network's class, of diffusers or of transformers.
        file: The checkpoint.
        folder: The network's own folder, with its `config.json`.
        component: `unet`, `vae`, `text_encoder` or `text_encoder_2`.
        device: Where it goes.
        dtype: Its precision.

    Raises:
        SettingsError: The file is damaged, lacks tensors, or holds another model.
    """
    return load_from_file(
        lambda: _empty(kind, folder),
        lambda key, config: source_of(component, key, config),
        file,
        name=f"sdxl/{component}",
        device=device,
        dtype=dtype,
    )


def load_from_file(
    make: Callable[[], Any], source: Callable[[str, Any], Source], file: Path, *, name: str, device: torch.device, dtype: torch.dtype
) -> Any:
    """Loads one network from a file that others may share, as `load_part` does.

    Args:
        make: Makes it without numbers.
        source: Says where one of its tensors is, by its name and the network's configuration.
        file: A `.safetensors` file.
        name: What messages and log lines call it.
        device: Where it goes.
        dtype: Its precision.

    Raises:
        SettingsError: The file is damaged, lacks tensors, or holds another model.
    """
    started = time.perf_counter()
    try:
        network = make()
        sources = {key: source(key, network.config) for key in network.state_dict()}
        with safe_open(file, "pt", device=str(device)) as opened:
            tensors = {
                key: _read(opened, found, shape).to(device, dtype)
                for (key, found), shape in zip(sources.items(), (value.shape for value in network.state_dict().values()), strict=True)
            }
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise unusable(name, error) from error
    network.load_state_dict(tensors, assign=True)
    network.requires_grad_(False)
    network.eval()
    check_network(network, name=name, dtype=dtype)
    log_loaded(name, sum(tensor.nbytes for tensor in tensors.values()), time.perf_counter() - started)
    return network


def source_of(component: str, name: str, config: Any) -> Source:
    """Says where one of a network's tensors is in the original layout.

    Args:
        component: `unet`, `vae`, `text_encoder` or `text_encoder_2`.
        name: As diffusers or transformers calls it.
        config: The network's configuration.
    """
    return _SOURCES[component](name, config)


def _of_unet(name: str, config: Any) -> Source:
    attending = tuple("CrossAttn" in kind for kind in config.up_block_types)
    return Source(PREFIXES["unet"] + unet_name(name, config.layers_per_block, attending))


def _of_vae(name: str, config: Any) -> Source:
    return Source(PREFIXES["vae"] + vae_name(name, len(config.up_block_types)))


def _of_text(name: str, _: Any) -> Source:
    # CLIPTextModel has lost this prefix in newer versions of transformers, and checkpoints still have it.
    return Source(f"{PREFIXES['text_encoder']}text_model.{name.removeprefix('text_model.')}")


def _of_text_2(name: str, _: Any) -> Source:
    prefix = PREFIXES["text_encoder_2"]
    if match := _JOINED.fullmatch(name):
        return Source(f"{prefix}{text_2_name(match[1])}.in_proj_{match[3]}", third="qkv".index(match[2]))
    return Source(prefix + text_2_name(name), transposed=name == "text_projection.weight")


_SOURCES: Mapping[str, Callable[[str, Any], Source]] = {
    "unet": _of_unet,
    "vae": _of_vae,
    "text_encoder": _of_text,
    "text_encoder_2": _of_text_2,
}


def _empty(kind: Any, folder: Path) -> Any:
    """The network without numbers, but for the buffers that no file holds."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        if hasattr(kind, "load_config"):
            return kind.from_config(kind.load_config(folder, local_files_only=True))
        return kind(kind.config_class.from_pretrained(folder, local_files_only=True))


def _read(opened: Any, source: Source, shape: torch.Size) -> Tensor:
    """One tensor of a network, from what may be a part of one in the file, or the same numbers in another form."""
    part = opened.get_slice(source.name)
    if source.third is None:
        tensor: Tensor = part[:]
    else:
        rows = part.get_shape()[0] // 3
        tensor = part[source.third * rows : (source.third + 1) * rows]
    if source.transposed:
        tensor = tensor.T.contiguous()
    if tensor.shape.numel() != shape.numel() or tensor.shape[0] != shape[0]:
        raise ValueError(f"{source.name} has another shape than SDXL's")
    # What is linear in an attention layer of diffusers is a convolution with a 1 × 1 kernel in the original.
    return tensor.reshape(shape)
