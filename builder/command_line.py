"""What the commands of this package have in common on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path


def command_parser(module: str, about: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m builder.…`.

    Args:
        module: Its name within this package.
        about: Its docstring, which `--help` shows as it is.
    """
    return argparse.ArgumentParser(
        prog=f"python -m builder.{module}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def described(path: Path) -> str:
    """A file, or a folder with all that is in it, and its size in decimal MB."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{path}  {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
