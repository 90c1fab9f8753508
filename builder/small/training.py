"""A training stage: so many minutes of steps, a cosine over them, averaged weights, and checkpoints to go on from."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm  # type: ignore[import-untyped]  # its types are a package of their own


@dataclass(frozen=True)
class Stage:
    """How long and how fast to train.

    Attributes:
        name: Names the progress bar and the checkpoint.
        minutes: Wall-clock time, also over interruptions.
        rate: The highest learning rate, which a cosine brings to zero.
        checkpoint: The file to go on from; it is written once a minute and at the end.
        warmup: The share of the time in which the rate rises, 0 … 1.
        decay: How much of the averaged weights a step keeps, 0 … 1.
        clip: The largest norm of the gradients.
    """

    name: str
    minutes: float
    rate: float
    checkpoint: Path
    warmup: float = 0.03
    decay: float = 0.995
    clip: float = 1.0


def rate_at(share: float, stage: Stage) -> float:
    """The learning rate when this share of the time has passed."""
    rising = min(1.0, (share + 1e-4) / stage.warmup)
    return stage.rate * rising * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


class Progress:
    """A stage's state: networks, averaged networks, optimizer, seconds and steps so far.

    Args:
        networks: What is trained.
        stage: The plan.
    """

    def __init__(self, networks: nn.Module, stage: Stage) -> None:
        self.networks = networks
        self.averaged = AveragedModel(networks, multi_avg_fn=get_ema_multi_avg_fn(stage.decay))  # type: ignore[no-untyped-call]
        self.optimizer = torch.optim.AdamW(networks.parameters(), lr=stage.rate, betas=(0.9, 0.99), weight_decay=1e-3)
        self.seconds = 0.0
        self.steps = 0

    def save(self, path: Path) -> None:
        """Writes everything to a file, at once and complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        parts: dict[str, Any] = {"networks": self.networks, "averaged": self.averaged, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()} | {"seconds": self.seconds, "steps": self.steps}
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def restore(self, path: Path) -> None:
        """Goes on from a file if there is one."""
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        self.networks.load_state_dict(state["networks"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.seconds, self.steps = state["seconds"], state["steps"]


def train(networks: nn.Module, loss_at: Callable[[int], Tensor], stage: Stage) -> nn.Module:
    """Trains until the stage's minutes are over.

    Args:
        networks: What is trained, on its device.
        loss_at: A step's number → its loss. What it draws by chance it draws from that number: a resumed run then goes on as it would have.
        stage: The plan.

    Returns:
        The networks with averaged weights, frozen.
    """
    progress = Progress(networks, stage)
    progress.restore(stage.checkpoint)
    budget = 60 * stage.minutes
    smooth, last_saved = math.nan, progress.seconds
    with tqdm(total=round(budget), initial=round(progress.seconds), unit="s", desc=stage.name, mininterval=5) as bar:
        while progress.seconds < budget:
            loss = _step(progress, loss_at, stage)
            smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
            bar.set_postfix(loss=f"{smooth:.4f}", steps=progress.steps, refresh=False)
            bar.update(min(progress.seconds, budget) - bar.n)
            if progress.seconds - last_saved > 60:
                progress.save(stage.checkpoint)
                last_saved = progress.seconds
    progress.save(stage.checkpoint)
    averaged: nn.Module = progress.averaged.module
    return averaged.eval().requires_grad_(False)


def _step(progress: Progress, loss_at: Callable[[int], Tensor], stage: Stage) -> float:
    started = time.monotonic()
    for group in progress.optimizer.param_groups:
        group["lr"] = rate_at(progress.seconds / (60 * stage.minutes), stage)
    progress.optimizer.zero_grad(set_to_none=True)
    loss = loss_at(progress.steps)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(progress.networks.parameters(), stage.clip)
    progress.optimizer.step()
    progress.averaged.update_parameters(progress.networks)
    progress.steps += 1
    progress.seconds += time.monotonic() - started
    return float(loss.detach())
