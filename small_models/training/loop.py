"""A training stage: so many steps, a cosine over them, averaged weights, and checkpoints to go on from."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm  # type: ignore[import-untyped]  # its types are a package of their own

Networks = TypeVar("Networks", bound=nn.Module)

_SAVE_SECONDS = 60


@dataclass(frozen=True)
class Stage:
    """How long and how fast to train.

    Attributes:
        name: Names the progress bar and the checkpoint.
        steps: How many, also over interruptions.
        rate: The highest learning rate, which a cosine brings to zero.
        checkpoint: The file to go on from; it is written once a minute and at the end.
        warmup: The share of the steps in which the rate rises, 0 … 1.
        decay: How much of the averaged weights a step keeps, 0 … 1.
        clip: The largest norm of the gradients.
    """

    name: str
    steps: int
    rate: float
    checkpoint: Path
    warmup: float = 0.03
    decay: float = 0.995
    clip: float = 1.0


def rate_at(share: float, stage: Stage) -> float:
    """The learning rate when this share of the steps is done."""
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
        self.trained = [weight for weight in networks.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=stage.rate, betas=(0.9, 0.99), weight_decay=1e-3)
        self.seconds = 0.0
        self.steps = 0

    def save(self, path: Path) -> None:
        """Writes everything to a file, at once and complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        parts: dict[str, Any] = {"networks": self.networks, "averaged": self.averaged, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()} | {"seconds": self.seconds, "steps": self.steps}
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    @contextmanager
    def kept(self, path: Path) -> Iterator[None]:
        """Writes everything at the end, also when somebody presses Ctrl-C."""
        try:
            yield
        finally:
            self.save(path)

    def restore(self, path: Path) -> None:
        """Goes on from a file if there is one."""
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        self.networks.load_state_dict(state["networks"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.seconds, self.steps = state["seconds"], state["steps"]


def train(networks: Networks, loss_at: Callable[[int], Tensor], stage: Stage) -> Networks:
    """Trains for the stage's steps.

    Args:
        networks: What is trained, on its device. What of it requires no gradient stays as it is.
        loss_at: A step's number → its loss. What it draws by chance it draws from that number: a resumed run then goes on as it would have.
        stage: The plan.

    Returns:
        The networks with averaged weights, frozen.
    """
    progress = Progress(networks, stage)
    progress.restore(stage.checkpoint)
    smooth, saved = math.nan, time.monotonic()
    with (
        tqdm(total=stage.steps, initial=progress.steps, unit="step", desc=stage.name, mininterval=5) as bar,
        progress.kept(stage.checkpoint),
    ):
        while progress.steps < stage.steps:
            loss = _step(progress, loss_at, stage)
            smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            bar.update()
            if time.monotonic() - saved > _SAVE_SECONDS:
                progress.save(stage.checkpoint)
                saved = time.monotonic()
    tqdm.write(f"{stage.name}: {progress.steps} steps in {progress.seconds / 60:.1f} minutes")
    averaged = progress.averaged.module.eval().requires_grad_(False)
    assert isinstance(averaged, type(networks))
    return averaged


def _step(progress: Progress, loss_at: Callable[[int], Tensor], stage: Stage) -> float:
    started = time.monotonic()
    for group in progress.optimizer.param_groups:
        group["lr"] = rate_at(progress.steps / stage.steps, stage)
    progress.optimizer.zero_grad(set_to_none=True)
    loss = loss_at(progress.steps)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(progress.trained, stage.clip)
    progress.optimizer.step()
    progress.averaged.update_parameters(progress.networks)
    progress.steps += 1
    progress.seconds += time.monotonic() - started
    return float(loss.detach())
