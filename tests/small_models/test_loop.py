"""A training stage: it makes its steps, goes on from its checkpoint, and its rate follows a cosine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from small_models.training.loop import Progress, Stage, rate_at, train


def stage(folder: Path, steps: int) -> Stage:
    return Stage("line", steps, 0.05, folder / "line.pt", decay=0.9)


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def fit(network: nn.Linear, seen: list[int], plan: Stage) -> nn.Linear:
    """Fits y = 3x + 1, and notes the steps."""

    def loss_at(step: int) -> Tensor:
        seen.append(step)
        x = torch.linspace(-1, 1, 16)[:, None]
        return nn.functional.mse_loss(network(x), 3 * x + 1)

    return train(network, loss_at, plan)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([weight.flatten() for weight in network.parameters()])


def test_a_stage_learns_in_its_steps(tmp_path: Path) -> None:
    seen: list[int] = []
    trained = fit(line(), seen, stage(tmp_path, 300))
    assert seen == list(range(300))
    assert float(trained(torch.ones(1, 1))) == pytest.approx(4, abs=0.2)
    assert not any(parameter.requires_grad for parameter in trained.parameters())


def test_a_stage_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole = fit(line(), [], stage(tmp_path / "whole", 40))
    stopped: list[int] = []
    network = line()

    def stop_at(step: int) -> Tensor:
        if step == 25:
            raise KeyboardInterrupt
        stopped.append(step)
        x = torch.linspace(-1, 1, 16)[:, None]
        return nn.functional.mse_loss(network(x), 3 * x + 1)

    with pytest.raises(KeyboardInterrupt):
        train(network, stop_at, stage(tmp_path / "parts", 40))
    resumed: list[int] = []
    parts = fit(line(), resumed, stage(tmp_path / "parts", 40))
    assert stopped + resumed == list(range(40))
    assert torch.equal(weights(whole), weights(parts))


def test_a_stage_that_is_complete_makes_no_step_and_gives_the_same_weights(tmp_path: Path) -> None:
    again: list[int] = []
    trained = fit(line(), [], stage(tmp_path, 50))
    restored = fit(line(), again, stage(tmp_path, 50))
    assert again == []
    assert torch.equal(weights(trained), weights(restored))


def test_what_is_frozen_stays_as_it_is(tmp_path: Path) -> None:
    network = line()
    network.bias.requires_grad_(False)
    before = network.bias.clone()
    trained = fit(network, [], stage(tmp_path, 300))
    assert torch.equal(trained.bias, before)
    assert float(trained.weight) == pytest.approx(3, abs=0.5)


def test_a_checkpoint_keeps_seconds_steps_and_optimizer(tmp_path: Path) -> None:
    plan = stage(tmp_path, 50)
    fit(line(), [], plan)
    progress = Progress(line(), plan)
    progress.restore(plan.checkpoint)
    assert progress.seconds > 0
    assert progress.steps == 50
    assert progress.optimizer.state_dict()["state"]


def test_the_rate_rises_to_its_highest_and_falls_to_nothing(tmp_path: Path) -> None:
    plan = stage(tmp_path, 1)
    rates = [rate_at(share / 100, plan) for share in range(101)]
    assert rates[0] < 0.01 * plan.rate
    assert max(rates) == pytest.approx(plan.rate, rel=0.02)
    assert rates[-1] == pytest.approx(0)
    assert rates[3:] == sorted(rates[3:], reverse=True)
