"""The command line that all trainings share: how many steps each stage makes, where checkpoints are, and the seed. It needs no torch."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Plan = TypeVar("Plan", bound="DataclassInstance")
"""A dataclass of numbers of steps, one for each stage, each with a default."""


def make_parser(prog: str, description: str | None, plan: type[DataclassInstance], work: str) -> argparse.ArgumentParser:
    """A parser with the options `--work`, `--seed`, and `--…-steps` for each stage.

    Args:
        prog: The command, as a person types it.
        description: What it does.
        plan: The stages.
        work: The default of `--work`.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(work), metavar="DIR", help=f"the folder for checkpoints (default {work})")
    for stage in fields(plan):
        told = f"steps of the stage {stage.name} (default {stage.default})"
        parser.add_argument(f"--{stage.name}-steps", type=int, default=stage.default, metavar="N", help=told)
    parser.add_argument("--seed", type=int, default=0, help="draws everything that is drawn by chance (default 0)")
    return parser


def plan_of(plan: type[Plan], options: argparse.Namespace) -> Plan:
    """The stages as the command line wants them."""
    return plan(**{stage.name: getattr(options, f"{stage.name}_steps") for stage in fields(plan)})
