"""The argument parser of every `python -m builder.…` command."""

from __future__ import annotations

import argparse


def command_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser for `python -m builder.MODULE`.

    Args:
        module: The module's name within this package.
        description: The module's docstring, shown by `--help` without reflowing.
    """
    return argparse.ArgumentParser(
        prog=f"python -m builder.{module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
