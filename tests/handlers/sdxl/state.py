"""Fingerprints of a pipeline: object identities and values, for comparison before and after a job."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_CALL_STATE = {"_step_index", "_begin_index", "timesteps", "sigmas", "num_inference_steps"}
"""The state of a scheduler that every call resets."""


_PLAIN = (bool, int, float, str, type(None))


class Same:
    """Compares by identity. It keeps the object alive, so that its id is not reused."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)

    def __repr__(self) -> str:
        return f"{type(self._value).__name__} at {id(self._value):#x}"


@dataclass(frozen=True)
class TensorState:
    """The identity, storage and values of a tensor."""

    tensor: Same
    address: int
    kind: str
    checksum: str

    @classmethod
    def of(cls, tensor: Tensor) -> TensorState:
        numbers = tensor.detach().contiguous().view(torch.uint8).numpy() if tensor.ndim else tensor.detach().numpy()
        kind = f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device} {'trained' if tensor.requires_grad else 'frozen'}"
        return cls(Same(tensor), tensor.data_ptr(), kind, hashlib.blake2b(numbers.tobytes()).hexdigest())


def fingerprint(pipeline: Any) -> Mapping[str, object]:
    """All state that one job could leave to the next, by name."""
    found: dict[str, object] = {"class": type(pipeline), "config": dict(pipeline.config), "dtype": pipeline.dtype}
    for name, component in pipeline.components.items():
        found[name] = Same(component)
        if hasattr(component, "config"):
            found[f"{name}.config"] = _configuration(component.config)
        if isinstance(component, nn.Module):
            found |= {f"{name}.{key}": value for key, value in _network(component).items()}
        if hasattr(component, "get_vocab"):
            found[f"{name}.vocabulary"] = (len(component), component.get_added_vocab(), component.split_special_tokens)
    found["scheduler.state"] = {key for key in vars(pipeline.scheduler) if key not in _CALL_STATE}
    found["unet.attention"] = {name: (type(one), Same(one)) for name, one in pipeline.unet.attn_processors.items()}
    found["unet.encoder_hid_proj"] = Same(pipeline.unet.encoder_hid_proj)
    return found


def _configuration(config: Any) -> object:
    # diffusers' frozen configurations also have attributes, which the library itself assigns.
    return (dict(config), dict(vars(config))) if isinstance(config, dict) else config.to_dict()


def _network(network: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, module in network.named_modules():
        hooks = [len(getattr(module, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks")]
        values = {key: value if isinstance(value, _PLAIN) else type(value) for key, value in vars(module).items()}
        found[f"module {name}"] = (Same(module), type(module), hooks, values)
    found |= {f"parameter {name}": TensorState.of(tensor) for name, tensor in network.named_parameters()}
    return found | {f"buffer {name}": TensorState.of(tensor) for name, tensor in network.named_buffers()}


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """The names whose state differs."""
    return sorted(name for name in before.keys() | after.keys() if name not in before or name not in after or before[name] != after[name])
