"""What RunPod's Hub reads about each handler is well-formed, names what exists, and its tests pass without secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from builder.images.build import ROOT
from builder.images.promote_hub import hub_listing, main
from handlers import HANDLERS
from handlers.chat.request import ChatRequest
from handlers.sdxl.request import SdxlRequest
from handlers.wan.request import WanRequest
from shared.contract.request import Request
from shared.settings import Settings, variables_of
from shared.weights.catalogue import CATALOGUE, QWEN_BASE

HERE = Path(__file__).parent
REQUESTS: dict[str, type[Request]] = {"sdxl": SdxlRequest, "wan": WanRequest, "chat": ChatRequest}
VARIABLES = {variables_of(name)[0] for name in Settings.model_fields}

every_handler = pytest.mark.parametrize("handler", HANDLERS)


def read(handler: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "handlers" / handler / ".runpod" / name).read_text(encoding="utf-8"))
    return content


@every_handler
@pytest.mark.parametrize("name", ["hub", "tests"])
def test_the_files_have_the_form_of_the_hub(handler: str, name: str) -> None:
    schema = json.loads((HERE / f"{name}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(read(handler, f"{name}.json"))


@every_handler
def test_its_jobs_are_valid_and_nothing_in_them_is_unknown(handler: str) -> None:
    for test in read(handler, "tests.json")["tests"]:
        assert REQUESTS[handler].parse(test["input"], job_id="hub").warnings == ()


@every_handler
def test_its_tests_need_no_secret(handler: str) -> None:
    given = {entry["key"] for entry in read(handler, "tests.json")["config"]["env"]}
    assert given == {"ALLOW_DOWNLOADS"}
    offered = [entry for entry in read(handler, "hub.json")["config"]["env"] if entry.get("input", {}).get("required")]
    assert offered == []


@every_handler
def test_every_variable_that_it_offers_is_read_and_its_default_is_a_setting(handler: str) -> None:
    entries = [entry for entry in read(handler, "hub.json")["config"]["env"] if "input" in entry]
    assert {entry["key"] for entry in entries} <= VARIABLES
    for entry in entries:
        text = entry["input"].get("default")
        if isinstance(text, bool):
            text = entry["input"]["trueValue" if text else "falseValue"]
        if text is not None and entry["key"] != "ALLOW_DOWNLOADS":  # a listing has to work by itself
            field = entry["key"].lower()
            assert getattr(Settings.model_validate({field: str(text)}), field) == Settings.model_fields[field].default


@every_handler
def test_its_disk_holds_what_it_may_download_with_a_fifth_to_spare(handler: str) -> None:
    needed = sum(weights.size for weights in CATALOGUE if weights.used_by == handler and weights is not QWEN_BASE)
    assert read(handler, "hub.json")["config"]["containerDiskInGb"] * 1e9 * 0.8 > needed


@every_handler
def test_every_cuda_that_runs_its_torch_is_allowed_and_no_older_one(handler: str) -> None:
    for config in (read(handler, "hub.json")["config"], read(handler, "tests.json")["config"]):
        assert [version for version in config["allowedCudaVersions"] if float(version) < 13.0] == []
        assert config["allowedCudaVersions"][0] == "13.0"


@every_handler
def test_promoting_it_makes_it_the_listing_with_its_own_image(handler: str, tmp_path: Path) -> None:
    assert main([handler, "--to", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"hub.json", "tests.json", "Dockerfile"}
    assert json.loads((tmp_path / "hub.json").read_text()) == read(handler, "hub.json")
    assert set(re.findall(r"^ARG HANDLER=(\w+)$", (tmp_path / "Dockerfile").read_text(), flags=re.MULTILINE)) == {handler}


def test_the_listing_of_this_repository_is_current() -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / ".runpod").iterdir()}
    assert there in [dict(hub_listing(handler)) for handler in HANDLERS]
