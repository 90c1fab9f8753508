"""Evaluates the small models against their thresholds: `make check-models`.

`python -m small_models.check small_models` prints the prompt adherence of both models, the effect of each request parameter and of each
add-on, all from fixed seeds, and fails if a metric is below its threshold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from small_models.training.thresholds import BelowThreshold, require_at_least

_COUNT = 200
_MIN_ACCURACY = 0.9  # over all attributes of the small SDXL's images


def check(models: Path, count: int) -> Iterator[tuple[str, str]]:
    """Runs all evaluations.

    Args:
        models: The folder of the small models.
        count: The number of held-out captions with one figure; the other evaluations use a fraction of it.

    Yields:
        A title, and a Markdown table.

    Raises:
        BelowThreshold: A metric is below its threshold.
    """
    # Imported lazily, so that `--help` does not import torch.
    from small_models.training.addons.evaluation import evaluate_controlnet, evaluate_ip_adapter, evaluate_lora
    from small_models.training.sdxl.generation import generate_image, load_recipe
    from small_models.training.sdxl.parameter_effects import parameter_effects_table
    from small_models.training.sdxl.prompt_adherence import accuracy, accuracy_table, measure_adherence
    from small_models.training.wan.evaluation import evaluate_wan

    sdxl = models / "sdxl"
    recipe = load_recipe(sdxl)
    for title, pairs, captions in (("one figure", False, count), ("two figures", True, count // 2)):
        matches, figures = measure_adherence(partial(generate_image, recipe), captions, pairs=pairs)
        yield f"SDXL, captions with {title}", accuracy_table(matches, figures)
        require_at_least(f"SDXL, accuracy on captions with {title}", accuracy(matches, figures), _MIN_ACCURACY)
    yield "SDXL, parameters", parameter_effects_table(recipe, sdxl, count // 4)
    yield "LoRA", evaluate_lora(sdxl, models, count // 4)
    yield "IP-Adapter, empty prompt and a reference", evaluate_ip_adapter(sdxl, models, count // 4)
    yield "ControlNet", evaluate_controlnet(sdxl, models, count // 4)
    yield from evaluate_wan(models / "wan", count // 2)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m small_models.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, metavar="DIR", help="the folder of the small models")
    parser.add_argument("--count", type=int, default=_COUNT, help=f"held-out captions with one figure (default {_COUNT})")
    options = parser.parse_args(arguments)
    try:
        for title, content in check(options.models, options.count):
            print(f"\n{title}\n\n{content}", flush=True)
    except BelowThreshold as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
