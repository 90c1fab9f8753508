"""Single-file checkpoints: SDXL's networks in the original implementation's layout."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from handlers.sdxl.weights.noise_schedule import MARKERS
from handlers.sdxl.weights.original_names import text_encoder_2_name, unet_name, vae_name
from handlers.sdxl.weights.scaled_fp8 import COMPANIONS, unscaled
from shared.models.load import check_network, log_loaded
from shared.weights.errors import WeightsError, weights_error

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
"""The prefix of each network's tensor names."""

PUBLISHED_CONFIG = Path(__file__).with_name("sdxl_config")
"""The published configuration: a diffusers folder without weights."""

# Buffers that are computed, the projection of the first text encoder, which SDXL does not use, and tensors for training only.
_WITHOUT_EFFECT = re.compile(
    r"position_ids$|logit_scale$|attn_mask$|^first_stage_model\.loss\.|model_ema|num_updates$|decay$|scaled_fp8$"
    r"|^conditioner\.embedders\.0\.(?:transformer\.)?text_projection"
    r"|^(?:optimizer|optimizer_states|lr_schedulers?|loops|callbacks|loss|denoiser)\.|^(?:global_step|epoch|scale_factor|betas|logvar)$"
    r"|^(?:\w+_)?alphas(?:_\w+)?$|^posterior_\w+$|^lvlb_weights$"
)
_QKV = re.compile(r"(.+)\.([qkv])_proj\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class TensorSource:
    """The location of a network's tensor in a file.

    Attributes:
        name: The tensor's name there.
        third: The third of its rows, if the original concatenates queries, keys and values.
        transposed: Whether it is stored transposed.
    """

    name: str
    third: int | None = None
    transposed: bool = False


def config_folder(file: Path) -> Path:
    """Returns the diffusers folder with a checkpoint's configuration: the folder of the same name, else the published configuration.

    Args:
        file: `…/model.safetensors`; a folder `…/model` counts if it has a `model_index.json`.
    """
    own = file.with_suffix("")
    return own if (own / "model_index.json").is_file() else PUBLISHED_CONFIG


def load_component(cls: Any, file: Path, folder: Path, *, component: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Loads one network of a checkpoint for inference.

    Each tensor is copied from the memory-mapped file to the device by itself, so that the host never holds a second copy of the weights.
    The network is frozen and in evaluation mode.

    Args:
        cls: The network's class, of diffusers or transformers.
        file: The checkpoint.
        folder: The network's own folder, with its `config.json`.
        component: `unet`, `vae`, `text_encoder` or `text_encoder_2`.
        device: The target device.
        dtype: The precision.

    Raises:
        WeightsError: The file is damaged, lacks tensors, or holds another model.
    """
    return load_from_file(
        lambda: _empty(cls, folder),
        lambda key, config: tensor_source(component, key, config),
        file,
        name=f"sdxl/{component}",
        device=device,
        dtype=dtype,
    )


def check_tensor_names(file: Path) -> None:
    """Refuses a checkpoint with tensors that belong to none of SDXL's networks: it would draw something else without them.

    Args:
        file: The checkpoint.

    Raises:
        WeightsError: Names one of the tensors, or the file is damaged.
    """
    try:
        with safe_open(file, "pt") as opened:
            names = sorted(opened.keys())
    except (OSError, SafetensorError) as error:
        raise weights_error("sdxl", error) from error
    _refuse(
        "sdxl",
        [name for name in names if not name.startswith(tuple(PREFIXES.values())) and name not in MARKERS and not _is_without_effect(name)],
    )


def load_from_file(
    make: Callable[[], Any], source: Callable[[str, Any], TensorSource], file: Path, *, name: str, device: torch.device, dtype: torch.dtype
) -> Any:
    """Loads one network from a file that may hold others, as `load_component` does.

    Args:
        make: Constructs the network without weights.
        source: Locates a tensor by its name and the network's configuration.
        file: A `.safetensors` file.
        name: The network's name in messages and log lines.
        device: The target device.
        dtype: The precision.

    Raises:
        WeightsError: The file is damaged, lacks tensors, or holds another model.
    """
    started = time.perf_counter()
    try:
        network = make()
        sources = {key: source(key, network.config) for key in network.state_dict()}
        with safe_open(file, "pt", device=str(device)) as opened:
            _check_known(name, set(opened.keys()), {found.name for found in sources.values()})
            if missing := sorted({found.name for found in sources.values()} - set(opened.keys())):
                raise WeightsError(name, f"tensors are missing from its file, such as {missing[0]!r}")
            tensors = {
                key: _read(opened, found, shape, name).to(device, dtype)
                for (key, found), shape in zip(sources.items(), (value.shape for value in network.state_dict().values()), strict=True)
            }
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise weights_error(name, error) from error
    network.load_state_dict(tensors, assign=True)
    network.requires_grad_(False)
    network.eval()
    check_network(network, name=name, dtype=dtype)
    log_loaded(name, sum(tensor.nbytes for tensor in tensors.values()), time.perf_counter() - started)
    return network


def tensor_source(component: str, name: str, config: Any) -> TensorSource:
    """Locates a network's tensor in the original layout.

    Args:
        component: `unet`, `vae`, `text_encoder` or `text_encoder_2`.
        name: The tensor's name in diffusers or transformers.
        config: The network's configuration.
    """
    return _SOURCES[component](name, config)


def _unet_source(name: str, config: Any) -> TensorSource:
    has_attention = tuple("CrossAttn" in kind for kind in config.up_block_types)
    return TensorSource(PREFIXES["unet"] + unet_name(name, config.layers_per_block, has_attention))


def _vae_source(name: str, config: Any) -> TensorSource:
    return TensorSource(PREFIXES["vae"] + vae_name(name, len(config.up_block_types)))


def _text_encoder_source(name: str, _: Any) -> TensorSource:
    # Newer versions of transformers dropped this prefix from CLIPTextModel; checkpoints still have it.
    return TensorSource(f"{PREFIXES['text_encoder']}text_model.{name.removeprefix('text_model.')}")


def _text_encoder_2_source(name: str, _: Any) -> TensorSource:
    prefix = PREFIXES["text_encoder_2"]
    if match := _QKV.fullmatch(name):
        return TensorSource(f"{prefix}{text_encoder_2_name(match[1])}.in_proj_{match[3]}", third="qkv".index(match[2]))
    return TensorSource(prefix + text_encoder_2_name(name), transposed=name == "text_projection.weight")


_SOURCES: Mapping[str, Callable[[str, Any], TensorSource]] = {
    "unet": _unet_source,
    "vae": _vae_source,
    "text_encoder": _text_encoder_source,
    "text_encoder_2": _text_encoder_2_source,
}


def _empty(cls: Any, folder: Path) -> Any:
    """Constructs a network without weights, except for the buffers that no file holds."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        if hasattr(cls, "load_config"):
            return cls.from_config(cls.load_config(folder, local_files_only=True))
        return cls(cls.config_class.from_pretrained(folder, local_files_only=True))


def _check_known(network: str, present: Set[str], used: Set[str]) -> None:
    """Refuses tensors of a network that its architecture does not have: it would be loaded in part, and draw something else."""
    prefix = PREFIXES.get(network.removeprefix("sdxl/"))
    if prefix is None:
        return
    _refuse(network, sorted(key for key in present - used if key.startswith(prefix) and not _is_without_effect(key)))


def _is_without_effect(name: str) -> bool:
    return _WITHOUT_EFFECT.search(name) is not None or COMPANIONS.search(name) is not None


def _refuse(network: str, unknown: Sequence[str]) -> None:
    if unknown:
        raise WeightsError(network, f"{len(unknown)} tensors do not belong to SDXL, such as {unknown[0][:200]!r}")


def _read(opened: Any, source: TensorSource, shape: torch.Size, network: str) -> Tensor:
    """Reads one tensor in the shape that the network has."""
    part = opened.get_slice(source.name)
    if source.third is None:
        tensor = unscaled(opened, source.name, part[:])
    else:
        count = part.get_shape()[0] // 3
        rows = slice(source.third * count, (source.third + 1) * count)
        tensor = unscaled(opened, source.name, part[rows], rows)
    if source.transposed:
        tensor = tensor.T.contiguous()
    if tensor.shape.numel() != shape.numel() or tensor.shape[0] != shape[0]:
        raise WeightsError(network, f"the tensor {source.name!r} has another shape than SDXL's")
    # Linear layers of attention in diffusers are 1 × 1 convolutions in the original.
    return tensor.reshape(shape)
