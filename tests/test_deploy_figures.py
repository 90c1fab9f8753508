"""The figures of docs/deploy.md are those of the catalogue and of the memory estimates, and its tables add up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from handlers.sdxl.memory import MemoryEstimate
from handlers.wan.memory import MemoryEstimate as ClipEstimate
from shared.weights.catalogue import CATALOGUE

PAGE = (Path(__file__).parents[1] / "docs/deploy.md").read_text(encoding="utf-8")


def table(start: str) -> dict[str, list[str]]:
    """The rows of the table whose head starts so, by their first cell."""
    lines = PAGE[PAGE.index(f"\n| {start}") :].split("\n\n")[0].splitlines()[3:]
    cells = ([cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines)
    return {first: rest for first, *rest in cells}


def numbers(text: str) -> list[float]:
    """The numbers of a cell, whose thousands are separated by spaces."""
    return [float(number.replace(" ", "")) for number in re.findall(r"\d{1,3}(?: \d{3})+(?:\.\d+)?|\d+(?:\.\d+)?", text)]


def test_a_cold_start_reads_the_catalogues_bytes_at_the_assumed_speeds() -> None:
    sizes = [entry.size / 1e9 for entry in CATALOGUE if entry.name != "qwen_base"]
    for speed, *seconds in table("| assumed | `sdxl`").values():
        for size, shown in zip(sizes, seconds, strict=True):
            exact = size / numbers(speed)[0]
            assert shown == (f"{exact:.0f} s" if exact >= 10 else f"{exact:.1f} s")


SDXL, WAN, CHAT = "`sdxl` | GB", "`wan`, 81 frames", "`chat` | GB"


@pytest.mark.parametrize("head", [SDXL, WAN])
def test_the_memory_of_a_handler_is_the_sum_of_its_parts(head: str) -> None:
    *parts, total = [(name, value) for name, (value,) in table(head).items() if not value.startswith("+")]
    assert total[0].startswith("total")
    assert sum(float(value) for _, value in parts) == pytest.approx(float(total[1]), abs=0.06)
    for name, value in parts:
        if "10⁹ × " in name:
            assert product(name) == pytest.approx(float(value), abs=0.008)


def product(text: str) -> float:
    """The value in GB of a row such as `text encoders (0.123 + 0.695) · 10⁹ × 2`."""
    *parameters, nine, itemsize = numbers(text.replace("10⁹", "9"))
    assert nine == 9
    return sum(parameters) * itemsize


def test_decoding_takes_what_the_estimates_of_the_handlers_say() -> None:
    image, clip = MemoryEstimate(1024, 1024), ClipEstimate(480, 832, 81, decoding_dtype=torch.float16)
    (denoising,) = (float(value) for name, (value,) in table(SDXL).items() if name.startswith("denoising six pictures"))
    assert 6 * image.denoising / 1e9 == pytest.approx(denoising, abs=0.006)
    assert f"decoding, one picture at a time, takes {image.decoding / 1e9:.2f} afterwards" in PAGE
    (decoding,) = (float(value) for name, (value,) in table(WAN).items() if name.startswith("decoding"))
    assert clip.decoding(tiled=False) / 1e9 == pytest.approx(decoding, abs=0.006)
    assert f"in tiles ({clip.decoding(tiled=True) / 1e9:.1f} GB)" in PAGE


def test_the_memory_of_chat_is_computed_from_the_weights_and_the_shape_of_the_cache() -> None:
    rows = {name: numbers(value)[0] for name, (value,) in table(CHAT).items()}
    one, both, token, cache = rows.values()
    (per_token,) = re.findall(r"= (57 344) bytes; 32 768 tokens", PAGE)
    bytes_per_token = numbers(per_token)[0]
    assert bytes_per_token == 2 * 28 * 4 * 128 * 2
    assert (product("7.616 · 10⁹ × 2"), 2 * one) == pytest.approx((one, both), abs=0.006)
    assert 32_768 * bytes_per_token / 1e9 == pytest.approx(token, abs=0.006)
    assert pytest.approx(cache, abs=0.06) == (25.7 - 0.5 - 15.2 - 2.1) * 7 / 8
    assert cache * 1e9 / bytes_per_token == pytest.approx(120_000, rel=0.01)


def test_the_costs_of_a_month_are_computed_from_their_assumptions() -> None:
    rows = {name: [numbers(cell) for cell in cells] for name, cells in table("| `sdxl` on 24 GB").items()}
    prices = [float(price) for price in re.findall(r"\$ (0\.000\d+)", PAGE.partition("## What a month costs")[2])]
    for column, price in enumerate((prices[1], prices[0], prices[1])):
        cell = {name: cells[column] for name, cells in rows.items()}
        working = cell["jobs"][0] * cell["seconds each"][0]
        starts, idle = (cell[name] for name in rows if name.startswith(("cold starts", "idle")))
        assert working == cell["working: jobs × seconds"][0]
        assert starts[0] * starts[1] == starts[2]
        assert (idle[0], idle[0] * idle[1]) == (starts[0], idle[2])
        total = working + starts[2] + idle[2]
        assert total == cell["total seconds"][0]
        assert total * price == pytest.approx(cell["× price"][0], abs=0.006)
        month = cell["× price"][0] + cell["volume, 25 GB each"][0]
        assert month == pytest.approx(cell["a month"][0], abs=0.006)
        assert f"{month / cell['jobs'][0]:.2g}" == f"{cell['a job'][0]:.2g}"


def test_the_advantages_of_vllm_are_the_ratios_of_the_rates() -> None:
    rows = table("| `chat` | `chat-vllm`")
    for name in ("16 conversations at once, tokens per second", "one conversation"):
        rate, (faster, ratio) = float(rows[name][0]), numbers(rows[name][1])
        assert faster / rate == pytest.approx(ratio, abs=0.06)
