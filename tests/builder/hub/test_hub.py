"""The Hub listing of every handler is valid, refers to existing settings, and its tests need no secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from builder.contract.schemas import ENDPOINTS
from builder.images.build import ROOT
from builder.images.promote_hub import hub_listing, main
from handlers import HANDLERS
from shared.settings import Settings, variable_names
from shared.weights.catalogue import CATALOGUE, QWEN_BASE

HERE = Path(__file__).parent
REQUESTS = {endpoint.name: endpoint.request for endpoint in ENDPOINTS}
VARIABLES = {variable_names(name)[0] for name in Settings.model_fields}

CUDA_VERSIONS = ("12.4", "12.5", "12.6", "12.7", "12.8", "12.9", "13.0", "13.1", "13.2", "13.3")
"""From which RunPod lets an endpoint choose."""

every_handler = pytest.mark.parametrize("handler", HANDLERS)


def read(handler: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "handlers" / handler / ".runpod" / name).read_text(encoding="utf-8"))
    return content


@every_handler
@pytest.mark.parametrize("name", ["hub", "tests"])
def test_the_listing_matches_the_hubs_schema(handler: str, name: str) -> None:
    schema = json.loads((HERE / f"{name}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(read(handler, f"{name}.json"))


@every_handler
def test_its_test_jobs_are_valid_without_warnings(handler: str) -> None:
    for test in read(handler, "tests.json")["tests"]:
        assert REQUESTS[handler].parse(test["input"], job_id="hub").warnings == ()


@every_handler
def test_its_tests_need_no_secrets(handler: str) -> None:
    set_variables = {entry["key"] for entry in read(handler, "tests.json")["config"]["env"]}
    assert set_variables == {"ALLOW_DOWNLOADS"}
    required = [entry for entry in read(handler, "hub.json")["config"]["env"] if entry.get("input", {}).get("required")]
    assert required == []


@every_handler
def test_every_offered_variable_is_a_setting_and_has_its_default(handler: str) -> None:
    entries = [entry for entry in read(handler, "hub.json")["config"]["env"] if "input" in entry]
    assert {entry["key"] for entry in entries} <= VARIABLES
    for entry in entries:
        text = entry["input"].get("default")
        if isinstance(text, bool):
            text = entry["input"]["trueValue" if text else "falseValue"]
        if (
            text is not None and entry["key"] != "ALLOW_DOWNLOADS"
        ):  # downloads are on, so that a deployment from the listing works without further setup
            if entry["key"] == "JOB_TIMEOUT":
                assert text == Settings().job_timeout_for(handler)
                continue
            field = entry["key"].lower()
            assert getattr(Settings.model_validate({field: str(text)}), field) == Settings.model_fields[field].default


@every_handler
def test_its_container_disk_holds_the_downloads_with_a_margin_of_a_fifth(handler: str) -> None:
    needed = sum(weights.size for weights in CATALOGUE if weights.used_by == handler and weights is not QWEN_BASE)
    assert read(handler, "hub.json")["config"]["containerDiskInGb"] * 1e9 * 0.8 > needed


@every_handler
def test_all_cuda_versions_that_its_torch_supports_are_allowed_and_no_other(handler: str) -> None:
    (build,) = re.findall(r"^ARG TORCH=cu(\d+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lowest = f"{build[:-1]}.{build[-1]}"
    for config in (read(handler, "hub.json")["config"], read(handler, "tests.json")["config"]):
        allowed = config["allowedCudaVersions"]
        assert allowed[0] == lowest
        assert allowed == [version for version in CUDA_VERSIONS if float(version) >= float(lowest)]


@every_handler
def test_promoting_it_writes_its_listing_and_a_dockerfile_that_builds_it(handler: str, tmp_path: Path) -> None:
    assert main([handler, "--to", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"hub.json", "tests.json", "Dockerfile"}
    assert json.loads((tmp_path / "hub.json").read_text()) == read(handler, "hub.json")
    assert set(re.findall(r"^ARG HANDLER=(\w+)$", (tmp_path / "Dockerfile").read_text(), flags=re.MULTILINE)) == {handler}


def test_the_repositorys_listing_is_up_to_date() -> None:
    listing = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / ".runpod").iterdir()}
    assert listing in [dict(hub_listing(handler)) for handler in HANDLERS]
