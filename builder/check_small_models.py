"""Measures whether the small models follow what they are asked: `make check-models`.

`python -m builder.check_small_models small_models` prints, from fixed seeds, how many pictures and clips show what their captions say, and
what each parameter and each attachment does to them.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

_COUNT = 200


def check(models: Path, count: int) -> None:
    """Prints every table.

    Args:
        models: The folder that holds the small models.
        count: How many held-out captions with one figure; the other tables take a share of them.
    """
    # Imported here, so that the command line answers at once.
    from builder.small.behaviour import behaviour
    from builder.small.drawing import draw, load_recipe
    from builder.small.following import follow, table

    recipe = load_recipe(models / "sdxl")
    for title, pairs, captions in (("one figure", False, count), ("two figures", True, count // 2)):
        _print(f"SDXL, captions with {title}", table(*follow(partial(draw, recipe), captions, pairs=pairs)))
    _print("SDXL, parameters", behaviour(recipe, models / "sdxl", count // 4))


def _print(title: str, content: str) -> None:
    print(f"\n{title}\n\n{content}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.check_small_models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, metavar="DIR", help="the folder that holds the small models")
    parser.add_argument("--count", type=int, default=_COUNT, help=f"held-out captions with one figure (default {_COUNT})")
    options = parser.parse_args(arguments)
    check(options.models, options.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
