"""A small network, and LoRAs for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shared.models.lora_files import Lora, read_lora
from shared.models.lora_names import LoraTarget, lora_layers
from shared.models.loras import merged

IN, OUT, RANK = 6, 8, 2
PREFIXES = dict.fromkeys(("", "lora_unet", "unet", "diffusion_model", "transformer"), "unet")


class Net(nn.Module):
    """A linear layer with and one without bias, a convolution, a normalisation, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(IN, OUT)
        self.to_k = nn.Linear(IN, OUT, bias=False)
        self.conv = nn.Conv2d(IN, OUT, 3)
        self.norm = nn.LayerNorm(OUT)
        self.modulation = nn.Parameter(torch.randn(1, 6, OUT))


def target(net: Net) -> LoraTarget:
    return LoraTarget("Net", lora_layers("unet", net), PREFIXES, {})


def read(net: Net, folder: Path, tensors: dict[str, Tensor], **header: Any) -> Lora:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "ink.safetensors", metadata=header or None)
    return read_lora(folder / "ink.safetensors", target(net))


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape)


def state(net: Net) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def changes(net: Net, lora: Lora, scale: float = 1.0) -> dict[str, Tensor]:
    """What a LoRA adds to each tensor that it changes. The network is as before afterwards, bit for bit."""
    before, bias = state(net), net.to_k.bias
    with merged(target(net), [(lora, scale)]):
        during = state(net)
    after = state(net)
    assert net.to_k.bias is bias
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    added = {name: tensor - before.get(name, torch.zeros_like(tensor)) for name, tensor in during.items()}
    return {name: tensor for name, tensor in added.items() if tensor.abs().max() > 0}


def assert_changes(net: Net, lora: Lora, expected: dict[str, Tensor], scale: float = 1.0) -> None:
    found = changes(net, lora, scale)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4)
