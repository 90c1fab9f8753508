"""The command lines of all trainings: each stage's steps can be chosen, and torch is not needed to ask."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from small_models.training.command_line import make_parser, plan_of


@dataclass(frozen=True)
class Stages:
    first: int = 10
    second: int = 20


def test_the_stages_are_as_long_as_the_command_line_says_and_else_as_planned() -> None:
    options = make_parser("train", None, Stages, "out/here").parse_args(["--second-steps", "3", "--seed", "1"])
    assert plan_of(Stages, options) == Stages(first=10, second=3)
    assert (options.work, options.seed) == (Path("out/here"), 1)


@pytest.mark.parametrize("name", ["sdxl", "attachments", "wan"])
def test_every_training_names_its_stages_without_loading_torch(name: str) -> None:
    asked = (
        "import sys\n"
        f"from builder.train_small_{name} import Plan, main\n"
        "try:\n    main(['--help'])\nfinally:\n    print('torch' in sys.modules, *(f'--{stage}-steps' for stage in vars(Plan())))"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60).stdout
    *help_, last = told.splitlines()
    loaded, *options = last.split()
    assert loaded == "False"
    assert options
    assert all(option in " ".join(help_) for option in options)
