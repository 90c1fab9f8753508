"""Command-line options of the training scripts: steps per stage, checkpoint folder and seed. Does not import torch."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Steps = TypeVar("Steps", bound="DataclassInstance")
"""A dataclass with the number of steps of each stage, all with defaults."""


def training_parser(prog: str, description: str | None, stages: type[DataclassInstance], work: str) -> argparse.ArgumentParser:
    """Returns a parser with `--work`, `--seed` and one `--STAGE-steps` option per stage.

    Args:
        prog: The command.
        description: Its help text.
        stages: The dataclass of the stages' steps.
        work: The default of `--work`.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(work), metavar="DIR", help=f"the folder for checkpoints (default {work})")
    for stage in fields(stages):
        text = f"steps of the stage {stage.name} (default {stage.default})"
        parser.add_argument(f"--{stage.name}-steps", type=int, default=stage.default, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, help="seeds data, weights and noise (default 0)")
    return parser


def steps_from(options: argparse.Namespace, stages: type[Steps]) -> Steps:
    """Returns the number of steps of each stage that the command line selects."""
    return stages(**{stage.name: getattr(options, f"{stage.name}_steps") for stage in fields(stages)})
