"""The architectures of `spandrel`: which one a file's tensors belong to, without reading the weights, and the network itself.

Two of spandrel's architectures import torchvision, whose wheels each work with one build of torch only. Neither upscales, so empty modules
take their places, and torchvision is not needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from shared.weights.errors import WeightsError

_NEED_TORCHVISION = ("LaMa", "RestoreFormer")
_SMALL = 4096
"""Up to how many elements a tensor is read for a description: some architectures store hyperparameters in them."""


@dataclass(frozen=True)
class _Absent:
    """Takes an architecture's place in spandrel's registry."""

    id: str

    def detect(self, _state: Mapping[str, Tensor]) -> bool:
        return False


@cache
def spandrel() -> Any:
    """Imports spandrel, without torchvision."""
    for name in _NEED_TORCHVISION:
        place = ModuleType(f"spandrel.architectures.{name}")
        setattr(place, f"{name}Arch", partial(_Absent, name))
        sys.modules.setdefault(place.__name__, place)
    import spandrel

    return spandrel


def build(state: Mapping[str, Tensor], name: str) -> Any:
    """Builds the network that tensors belong to, with their values.

    Args:
        state: The tensors by name, with any of the published naming schemes.
        name: The weights in messages.

    Returns:
        A descriptor: an `ImageModelDescriptor` of spandrel for all networks that upscale.

    Raises:
        WeightsError: No known architecture has these tensors, or their names and shapes contradict each other.
    """
    _check_names(state, name)
    library = spandrel()
    try:
        return library.MAIN_REGISTRY.load(dict(state))
    except library.UnsupportedModelError as error:
        first = ", ".join(sorted(state)[:3])
        raise WeightsError(name, f"no architecture of spandrel {library.__version__} has tensors of these names ({first} …)") from error


def sketch(file: Any, name: str) -> Any:
    """Builds the network of an opened file from the names and shapes in its header: they are checked, and little is read or allocated.

    Args:
        file: An opened `.safetensors` file.
        name: As for `build`.

    Returns:
        The descriptor. Its parameters have no memory.

    Raises:
        WeightsError: As for `build`.
    """
    with _Sketch():
        return build({key: _outline(file, key) for key in file.keys()}, name)  # noqa: SIM118 - not a dict


def read_tensors(file: Any) -> dict[str, Tensor]:
    """Reads all tensors of an opened file."""
    return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict


def open_file(path: Any) -> Any:
    """Opens a `.safetensors` file on the CPU."""
    return safe_open(path, "pt")


class _Sketch(TorchFunctionMode):
    """Within it, on this thread, uninitialised and random tensors have one element of memory, and nothing is written in place."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in (torch.empty, torch.randn, torch.rand):
            size = options.pop("size", args)
            flat = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
            return torch.zeros((), dtype=options.get("dtype")).expand(*flat)
        name, target = getattr(func, "__name__", ""), args[0] if args else options.get("tensor")
        if name.endswith("_") and not name.endswith("__") and isinstance(target, Tensor):
            return target
        return func(*args, **options)


def _outline(file: Any, key: str) -> Tensor:
    """A tensor's shape, with its values only if it is small."""
    part = file.get_slice(key)
    shape = part.get_shape()
    return file.get_tensor(key) if torch.Size(shape).numel() <= _SMALL else torch.zeros(()).expand(shape)


def _check_names(state: Mapping[str, Tensor], name: str) -> None:
    """A network is built as long as the largest number in its tensors' names says, which no real one has without as many tensors."""
    largest = max((int(part[:9]) for key in state for part in key.split(".") if part.isdecimal()), default=0)
    if largest > 4 * len(state) + 16:
        raise WeightsError(name, f"a tensor has the number {largest}, but the file has {len(state)} tensors")
    if any(tensor.numel() == 0 and max(tensor.shape) > _SMALL for tensor in state.values()):
        raise WeightsError(name, "a tensor without elements claims to be large")
