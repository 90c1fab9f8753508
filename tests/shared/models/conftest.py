"""The network of the tests of LoRAs."""

from __future__ import annotations

import pytest
import torch

from tests.shared.models.lora_net import Net


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().requires_grad_(False)
