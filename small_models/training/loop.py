"""The training loop: AdamW with a cosine learning-rate schedule, EMA weights, gradient clipping, and checkpoints to resume from."""

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
from tqdm import tqdm  # type: ignore[import-untyped]  # its types are a separate package

Model = TypeVar("Model", bound=nn.Module)

_CHECKPOINT_INTERVAL = 60  # seconds


@dataclass(frozen=True)
class TrainingConfig:
    """The hyperparameters of one training stage.

    Attributes:
        name: The label of the progress bar.
        steps: The number of optimizer steps, including those before an interruption.
        learning_rate: The peak learning rate, from which a cosine decays to zero.
        checkpoint: The file to resume from, written once a minute and at the end.
        warmup: The fraction of the steps over which the learning rate rises linearly, 0 … 1.
        ema_decay: The decay of the exponential moving average of the weights, 0 … 1.
        max_grad_norm: The norm to which gradients are clipped.
    """

    name: str
    steps: int
    learning_rate: float
    checkpoint: Path
    warmup: float = 0.03
    ema_decay: float = 0.995
    max_grad_norm: float = 1.0


def learning_rate_at(progress: float, config: TrainingConfig) -> float:
    """Returns the learning rate after this fraction of the steps, 0 … 1."""
    warmup = min(1.0, (progress + 1e-4) / config.warmup)
    return config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class TrainingState:
    """Everything that a checkpoint contains: model, EMA weights, optimizer, elapsed seconds and completed steps.

    Args:
        model: The model to train.
        config: The hyperparameters.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self.model = model
        self.ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))  # type: ignore[no-untyped-call]
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
        self.seconds = 0.0
        self.steps = 0

    def save(self, path: Path) -> None:
        """Writes a checkpoint atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        parts: dict[str, Any] = {"model": self.model, "ema": self.ema, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()} | {"seconds": self.seconds, "steps": self.steps}
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    @contextmanager
    def saved_on_exit(self, path: Path) -> Iterator[None]:
        """Writes a checkpoint when the body ends, also after an error or Ctrl-C."""
        try:
            yield
        finally:
            self.save(path)

    def restore(self, path: Path) -> None:
        """Loads a checkpoint if the file exists."""
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.seconds, self.steps = state["seconds"], state["steps"]


def train(model: Model, loss_at: Callable[[int], Tensor], config: TrainingConfig) -> Model:
    """Trains a model, resuming from its checkpoint if there is one.

    Args:
        model: The model on its device. Parameters without `requires_grad` stay frozen.
        loss_at: Returns the loss of a step from its number. All randomness must be seeded by that number, so that a resumed run continues
            exactly as an uninterrupted one.
        config: The hyperparameters.

    Returns:
        The model with its EMA weights, frozen.
    """
    state = TrainingState(model, config)
    state.restore(config.checkpoint)
    smoothed, saved = math.nan, time.monotonic()
    with (
        tqdm(total=config.steps, initial=state.steps, unit="step", desc=config.name, mininterval=5) as bar,
        state.saved_on_exit(config.checkpoint),
    ):
        while state.steps < config.steps:
            loss = _step(state, loss_at, config)
            smoothed = loss if math.isnan(smoothed) else 0.98 * smoothed + 0.02 * loss
            bar.set_postfix(loss=f"{smoothed:.4f}", refresh=False)
            bar.update()
            if time.monotonic() - saved > _CHECKPOINT_INTERVAL:
                state.save(config.checkpoint)
                saved = time.monotonic()
    tqdm.write(f"{config.name}: {state.steps} steps in {state.seconds / 60:.1f} minutes")
    ema_model = state.ema.module.eval().requires_grad_(False)
    assert isinstance(ema_model, type(model))
    return ema_model


def _step(state: TrainingState, loss_at: Callable[[int], Tensor], config: TrainingConfig) -> float:
    started = time.monotonic()
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate_at(state.steps / config.steps, config)
    state.optimizer.zero_grad(set_to_none=True)
    loss = loss_at(state.steps)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.parameters, config.max_grad_norm)
    state.optimizer.step()
    state.ema.update_parameters(state.model)
    state.steps += 1
    state.seconds += time.monotonic() - started
    return float(loss.detach())
