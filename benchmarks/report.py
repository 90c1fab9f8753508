"""Runs the quick benchmarks and writes `docs/performance.md`: `make performance`, or `python -m benchmarks.report MODELS_DIR`.

The results are kept in `benchmarks/results.json`; `python -m benchmarks.report --page` only renders them. What `make setup` takes is
measured by `python -m benchmarks.set_up`, and kept there too.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.performance_page import render
from handlers import HANDLERS

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[1] / "docs/performance.md"
ROUNDS = 3


def main(arguments: list[str]) -> None:
    """Measures unless `--page` is given, and writes the page."""
    results = keep(**({} if arguments == ["--page"] else measure(Path(arguments[0]))))
    PAGE.write_text(render(results), encoding="utf-8")


def keep(**measured: Any) -> dict[str, Any]:
    """Keeps results by their names, in place of those of the same name, and returns all."""
    kept: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results = kept | measured
    if measured:
        RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return results


def measure(models: Path) -> dict[str, Any]:
    """Runs the benchmarks on the models of a MODELS_DIR."""
    # Imported here: the page is rendered without torch.
    from benchmarks.chat_batching import load_model, measure_batching, measure_prefix_cache
    from benchmarks.concurrency import HANDLERS as UPLOADING
    from benchmarks.concurrency import measure_concurrency
    from benchmarks.device_report import count_all
    from benchmarks.encoding import compare as compare_encoding
    from benchmarks.full_queue import compare as compare_full_queue
    from benchmarks.overhead import measure_overhead
    from benchmarks.start import measure as measure_start
    from benchmarks.upload_overlap import measure as measure_overlap
    from benchmarks.wan_decoder import measure as measure_wan_decoder
    from shared.settings import prepare_environment
    from shared.telemetry import configure_logging

    prepare_environment()
    configure_logging("ERROR")
    overhead = {handler: measure_overhead(handler, models) for handler in HANDLERS}
    chat = load_model(models)
    sequential, batched = measure_batching(chat, ROUNDS, tokens=24)
    return {
        "machine": describe_machine(),
        "overhead": {
            handler: {
                "bare": statistics.median(measured.bare),
                "overhead": measured.overhead,
                "latency": statistics.median(measured.latency),
            }
            for handler, measured in overhead.items()
        },
        "concurrency": {handler: asdict(measure_concurrency(handler, models, ROUNDS)) for handler in UPLOADING},
        "encoding": {name: asdict(compared) for name, compared in compare_encoding(ROUNDS).items()},
        "upload_overlap": {link: asdict(measured) for link, measured in measure_overlap(ROUNDS).items()},
        "full_queue": [asdict(measured) for measured in compare_full_queue()],
        "start": {handler: asdict(start) for handler, start in measure_start(models, ROUNDS).items()},
        "batching": {"sequential": sequential, "batched": batched},
        "prefix_cache": asdict(measure_prefix_cache(chat, ROUNDS)),
        "device": count_all(models),
        "wan_decoder": measure_wan_decoder(),
    }


def describe_machine() -> dict[str, Any]:
    """Describes the processor, the load on it, and the versions that figures depend on."""
    import torch

    from shared.runpod_sdk import processor_name

    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[1], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
