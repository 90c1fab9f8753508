"""What sabotages a worker leaves nothing of its own behind: it would be taken for what the worker does not give back."""

from __future__ import annotations

import contextlib
import json
import weakref
from pathlib import Path

import pytest
import torch

from tests.chaos.faults.sabotage import SABOTAGE, sabotage


@pytest.mark.parametrize("what", ["oom", "illegal access", "lost by text"])
def test_a_network_that_fails_does_not_hold_what_it_was_computing_with(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = torch.nn.Identity()
    sabotage("denoiser", network)
    SABOTAGE.write_text(json.dumps([{"where": "denoiser", "what": what, "times": 1, "after": 0}]))

    given = torch.zeros(1)
    held = weakref.ref(given)
    with contextlib.suppress(RuntimeError):
        network(given)
        pytest.fail("it was to fail")
    del given
    assert held() is None
