"""Measures whether the small models follow what they are asked: `make check-models`.

`python -m small_models.check small_models` prints, from fixed seeds, how many pictures and clips show what their captions say, and
what each parameter and each attachment does to them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from builder.command_line import command_parser
from small_models.training.thresholds import Missed, demand

_COUNT = 200
_LEAST = 0.9  # of the attributes in SDXL's pictures


def check(models: Path, count: int) -> Iterator[tuple[str, str]]:
    """Measures everything.

    Args:
        models: The folder that holds the small models.
        count: How many held-out captions with one figure; the other tables take a share of them.

    Yields:
        A title, and a table in Markdown.

    Raises:
        Missed: A model does less than its card says.
    """
    # Imported here, so that the command line answers at once.
    from small_models.training.addons.evaluation import check_controlnet, check_ip_adapter, check_lora
    from small_models.training.sdxl.generation import generate_image, load_recipe
    from small_models.training.sdxl.parameter_effects import behaviour
    from small_models.training.sdxl.prompt_adherence import accuracy, measure_adherence, shares_table
    from small_models.training.wan.evaluation import wan_tables

    sdxl = models / "sdxl"
    recipe = load_recipe(sdxl)
    for title, pairs, captions in (("one figure", False, count), ("two figures", True, count // 2)):
        right, figures = measure_adherence(partial(generate_image, recipe), captions, pairs=pairs)
        yield f"SDXL, captions with {title}", shares_table(right, figures)
        demand(f"SDXL, attributes right in pictures of captions with {title}", accuracy(right, figures), _LEAST)
    yield "SDXL, parameters", behaviour(recipe, sdxl, count // 4)
    yield "LoRA", check_lora(sdxl, models, count // 4)
    yield "IP-Adapter, empty prompt and a reference", check_ip_adapter(sdxl, models, count // 4)
    yield "ControlNet", check_controlnet(sdxl, models, count // 4)
    yield from wan_tables(models / "wan", count // 2)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = command_parser("check_small_models", __doc__)
    parser.add_argument("models", type=Path, metavar="DIR", help="the folder that holds the small models")
    parser.add_argument("--count", type=int, default=_COUNT, help=f"held-out captions with one figure (default {_COUNT})")
    options = parser.parse_args(arguments)
    try:
        for title, content in check(options.models, options.count):
            print(f"\n{title}\n\n{content}", flush=True)
    except Missed as missed:
        print(missed, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
