"""The SDXL page lists every parameter with existing tests, and its memory tables are consistent."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sdxl_memory import REFINER
from builder.contract import sdxl_page as sdxl_page_module
from builder.contract.sdxl_page import CARD, Extras, controls_table, memory_table, most_controls, parameters, sdxl_page
from handlers.sdxl.features.ip_adapter import ADAPTERS_BY_TYPE
from handlers.sdxl.nested import MAX_CONTROLS
from handlers.sdxl.request import SdxlRequest
from shared.contract.field_location import field_locations

TESTS = Path(__file__).parents[2]


def named_tests() -> set[str]:
    return {test for row in parameters().values() for test in (row.acts, row.without)}


def test_every_request_field_has_a_row() -> None:
    assert set(parameters()) == set(field_locations(SdxlRequest))
    assert all(f"| `{location.path}` | " in sdxl_page() for location in field_locations(SdxlRequest).values())


@pytest.mark.parametrize("name", sorted(parameters()))
def test_the_tests_of_a_row_exist(name: str) -> None:
    row = parameters()[name]
    for test in (row.acts, row.without):
        file, _, function = test.partition("::")
        functions = [node.name for node in ast.parse((TESTS / file).read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
        assert function in functions


def test_the_page_lists_the_adapter_files_of_every_reference_type_in_order() -> None:
    for kind, files in ADAPTERS_BY_TYPE.items():
        (line,) = (line for line in sdxl_page().splitlines() if line.startswith(f"| `{kind}` | "))
        assert re.findall(r"`([^`]+)`", line) == [kind, *files]


@pytest.mark.slow
def test_pytest_collects_the_tests_of_all_rows() -> None:
    files = sorted({str(TESTS / test.partition("::")[0]) for test in named_tests()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files]
    listed = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True).stdout
    collected = {line.partition("[")[0].removeprefix("tests/") for line in listed.splitlines()}
    assert named_tests() <= collected


def test_the_memory_table_covers_every_combination_and_all_of_them_fit() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in memory_table().splitlines()[2:]]
    assert len({row[0] for row in rows}) == len(rows) == 16
    for row in rows:
        assert row[3] == "yes"
        assert float(row[2]) < CARD
        assert float(row[1]) < float(row[2])


def test_the_controlnet_table_states_the_largest_number_that_fits() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in controls_table().splitlines()[2:]]
    assert [row[0] for row in rows] == ["nothing", "LoRAs", "two adapters", "two adapters, LoRAs"]
    for row, extras in zip(
        rows, (Extras(adapters=adapters, loras=loras) for adapters in (False, True) for loras in (False, True)), strict=True
    ):
        for cell, side in zip(row[1:], (1024, 2048), strict=True):
            most = int(cell)
            assert replace(extras, controls=most).needs(side) <= CARD < replace(extras, controls=most + 1).needs(side)
            assert most > 2, "the memory table includes two"
            assert most == most_controls(extras, side) < MAX_CONTROLS


def test_every_additional_controlnet_adds_exactly_its_weights() -> None:
    steps = [Extras(controls=count + 1).needs(1024) - Extras(controls=count).needs(1024) for count in range(1, 16)]
    assert steps == pytest.approx([sdxl_page_module._CONTROLNET] * 15)


def test_weight_sizes_are_those_of_the_published_networks() -> None:
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel

    from handlers.sdxl.weights.checkpoint import PUBLISHED_CONFIG

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(PUBLISHED_CONFIG / "unet"))
        networks = (ControlNetModel.from_unet(unet, load_weights_from_unet=False), UNet2DConditionModel(**REFINER))
    sizes = [sum(tensor.numel() for tensor in network.parameters()) * 2 / 1e9 for network in networks]
    assert sizes == pytest.approx([sdxl_page_module._CONTROLNET, sdxl_page_module._REFINER], abs=0.001)
