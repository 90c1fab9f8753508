"""Tensors that outlive the inference mode of the job that creates or moves them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Leaves inference mode while the body runs, without recording gradients.

    A tensor that is created in inference mode cannot be changed outside it, and its dispatch keys differ from those of loaded weights, so
    that code that was compiled for one is compiled again for the other.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield
