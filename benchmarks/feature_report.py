"""Counts every feature of SDXL and of WAN at full size on a fake CUDA device: `python -m benchmarks.feature_report MODELS_DIR`.

It takes minutes and 2 GB, so `make performance` does not run it. The rows are kept in `benchmarks/results.json`, and `make performance`
shows them in docs/performance.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.feature_counts import FeatureUse
from benchmarks.report import keep
from benchmarks.sdxl_features import sdxl_features
from benchmarks.wan_features import wan_features
from shared.settings import prepare_environment


def count_features(models: Path) -> Iterator[FeatureUse]:
    """Counts every feature of SDXL and of WAN.

    Args:
        models: A MODELS_DIR, of which only WAN's tokenizer is used.
    """
    yield from sdxl_features()
    yield from wan_features(models / "wan/tokenizer")


def main(models: Path) -> None:
    """Prints the rows, and keeps them in the results."""
    rows = []
    for row in count_features(models):
        print(row, flush=True)
        rows.append(asdict(row))
    keep(features=rows)


if __name__ == "__main__":
    prepare_environment()
    main(Path(sys.argv[1]))
