"""Injected faults leak nothing themselves, which would be mistaken for a leak of the worker."""

from __future__ import annotations

import contextlib
import json
import weakref
from pathlib import Path

import pytest
import torch

from tests.chaos.fault_injection.injection import FAULTS, inject_into


@pytest.mark.parametrize("fault", ["oom", "illegal access", "lost by text"])
def test_a_network_that_fails_does_not_keep_its_inputs(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = torch.nn.Identity()
    inject_into("denoiser", network)
    FAULTS.write_text(json.dumps([{"target": "denoiser", "fault": fault, "times": 1, "skip": 0}]))

    sample = torch.zeros(1)
    reference = weakref.ref(sample)
    with contextlib.suppress(RuntimeError):
        network(sample)
        pytest.fail("no fault was raised")
    del sample
    assert reference() is None
