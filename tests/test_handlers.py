"""`handlers.HANDLERS` is the only list of handlers: everything else that enumerates them agrees with it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import get_args

import pytest

from builder.contract.schemas import ENDPOINTS
from builder.lock_requirements import FOLDER as REQUIREMENTS
from handlers import HANDLERS
from shared.models.device import Family
from shared.weights.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]

every_handler = pytest.mark.parametrize("name", HANDLERS)


def test_every_package_of_handlers_is_listed() -> None:
    assert {path.parent.name for path in (ROOT / "handlers").glob("*/handler.py")} == set(HANDLERS)


@every_handler
def test_a_handler_provides_what_the_convention_requires(name: str) -> None:
    handler = importlib.import_module(f"handlers.{name}.handler").HANDLER
    (endpoint,) = (endpoint for endpoint in ENDPOINTS if endpoint.name == name)
    assert (handler.name, handler.request) == (name, endpoint.request)
    assert (ROOT / "handlers" / name / "test_input.json").is_file()
    assert {path.name for path in (ROOT / "handlers" / name / ".runpod").iterdir()} == {"hub.json", "tests.json"}


@every_handler
def test_a_handler_has_schemas_examples_and_a_lock_file(name: str) -> None:
    assert all((ROOT / f"schemas/{name}.{role}.schema.json").is_file() for role in ("request", "payload"))
    assert list((ROOT / "examples/requests").glob(f"{name}_*.json"))
    assert (REQUIREMENTS / f"{name}.in").is_file()


def test_the_types_and_the_catalogue_cover_every_handler() -> None:
    assert get_args(Family) == HANDLERS
    assert {weights.used_by for weights in CATALOGUE} == set(HANDLERS)


def test_the_makefile_names_every_handler() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {tuple(names.split("|")) for names in re.findall(r"HANDLER=([a-z|-]+)", text) if "|" in names}
    assert named == {HANDLERS, (*HANDLERS, "chat-vllm")}
