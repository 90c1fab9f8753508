"""A training stage: it keeps to its time, goes on from its checkpoint, and its rate follows a cosine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from builder.small.training import Progress, Stage, rate_at, train


def stage(folder: Path, minutes: float) -> Stage:
    return Stage("line", minutes, 0.05, folder / "line.pt", decay=0.9)


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def fit(network: nn.Linear, seen: list[int], plan: Stage) -> nn.Module:
    """Fits y = 3x + 1, and notes the steps."""

    def loss_at(step: int) -> Tensor:
        seen.append(step)
        x = torch.linspace(-1, 1, 16)[:, None]
        return nn.functional.mse_loss(network(x), 3 * x + 1)

    return train(network, loss_at, plan)


def test_a_stage_learns_within_its_time(tmp_path: Path) -> None:
    trained = fit(line(), [], stage(tmp_path, 0.02))
    assert float(trained(torch.ones(1, 1))) == pytest.approx(4, abs=0.2)
    assert not any(parameter.requires_grad for parameter in trained.parameters())


def test_a_stage_goes_on_where_its_checkpoint_ends(tmp_path: Path) -> None:
    first: list[int] = []
    second: list[int] = []
    fit(line(), first, stage(tmp_path, 0.005))
    fit(line(), second, stage(tmp_path, 0.01))
    assert first[0] == 0
    assert second[0] == len(first)


def test_a_stage_that_is_complete_makes_no_step_and_gives_the_same_weights(tmp_path: Path) -> None:
    again: list[int] = []
    trained = fit(line(), [], stage(tmp_path, 0.005))
    restored = fit(line(), again, stage(tmp_path, 0.005))
    assert again == []
    assert torch.equal(torch.cat([p.flatten() for p in trained.parameters()]), torch.cat([p.flatten() for p in restored.parameters()]))


def test_a_checkpoint_keeps_seconds_steps_and_optimizer(tmp_path: Path) -> None:
    plan = stage(tmp_path, 0.005)
    fit(line(), [], plan)
    progress = Progress(line(), plan)
    progress.restore(plan.checkpoint)
    assert progress.seconds >= 0.3
    assert progress.steps > 0
    assert progress.optimizer.state_dict()["state"]


def test_the_rate_rises_to_its_highest_and_falls_to_nothing(tmp_path: Path) -> None:
    plan = stage(tmp_path, 1)
    rates = [rate_at(share / 100, plan) for share in range(101)]
    assert rates[0] < 0.01 * plan.rate
    assert max(rates) == pytest.approx(plan.rate, rel=0.02)
    assert rates[-1] == pytest.approx(0)
    assert rates[3:] == sorted(rates[3:], reverse=True)
