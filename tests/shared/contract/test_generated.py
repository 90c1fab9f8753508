"""Generated schemas and pages are current, and agree with the parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from builder.contract.export import generated_files, stale_files
from builder.contract.schemas import ENDPOINTS, Endpoint
from shared.contract.callback import to_dict
from shared.contract.field_location import field_locations
from shared.contract.request import Request
from shared.errors import ERRORS, ValidationError
from shared.settings import Settings
from tests.shared.contract import payloads
from tests.shared.contract.payloads import AnyPayload

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted([*(ROOT / "examples/requests").glob("*.json"), *(ROOT / "handlers").glob("*/test_input.json")])
BY_NAME = {endpoint.name: endpoint for endpoint in ENDPOINTS}


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def validator(endpoint: Endpoint, role: str) -> Draft202012Validator:
    return Draft202012Validator(load(ROOT / f"schemas/{endpoint.name}.{role}.schema.json"))


def endpoint_of(path: Path) -> Endpoint:
    return BY_NAME[path.parent.name if path.name == "test_input.json" else path.name.partition("_")[0]]


def test_generated_files_are_current() -> None:
    assert stale_files(generated_files()) == [], "run `make schemas`"


def test_missing_or_modified_file_is_stale(tmp_path: Path) -> None:
    files = generated_files()
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, "utf-8")
    assert stale_files(files, tmp_path) == []
    (tmp_path / "docs/errors.md").unlink()
    (tmp_path / "schemas/wan.request.schema.json").write_text("{}")
    assert set(stale_files(files, tmp_path)) == {"docs/errors.md", "schemas/wan.request.schema.json"}


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
@pytest.mark.parametrize("role", ["request", "payload"])
def test_schemas_are_valid_json_schema(endpoint: Endpoint, role: str) -> None:
    Draft202012Validator.check_schema(validator(endpoint, role).schema)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_examples_parse_without_warnings_and_match_their_schema(path: Path) -> None:
    endpoint, raw = endpoint_of(path), load(path)["input"]
    assert endpoint.request.parse(raw, job_id="r").warnings == (() if "live" not in path.stem or "wan" not in path.stem else MAPPED)
    validator(endpoint, "request").validate(raw)


MAPPED = ("`resolution` 1024x576 is not a valid clip size; the nearest one, 832x480, was used",)


def test_every_endpoint_has_examples() -> None:
    assert {endpoint_of(path).name for path in EXAMPLES} == set(BY_NAME)
    assert len(EXAMPLES) >= 9


def test_root_test_input_is_an_sdxl_job() -> None:
    request = BY_NAME["sdxl"].request.parse(load(ROOT / "test_input.json")["input"], job_id="r")
    assert request.type == "sdxl_image_fast"


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("sdxl", {"prompt": "p", "type": "sdxl_image_fast", "user_id": "u"}),
        ("sdxl", {"id": "j", "user_id": "u", "type": "other", "prompt": "p"}),
        ("sdxl", {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "p", "config": {"num_images": 2}}),
        ("sdxl", {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "p", "config": {"batch_size": 2}}),
        ("sdxl", {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "p", "config": {"loras": [{"scale": 1}]}}),
        ("wan", {"id": "j", "user_id": "u", "type": "video_fast", "prompt": "p", "config": {"frames": 84}}),
        ("chat", {"messages": []}),
        ("chat", {"messages": [{"role": "narrator", "content": "x"}]}),
    ],
)
def test_requests_rejected_by_the_schema_are_rejected_by_the_worker(name: str, raw: dict[str, Any]) -> None:
    assert not validator(BY_NAME[name], "request").is_valid(raw)
    with pytest.raises(ValidationError):
        BY_NAME[name].request.parse(raw, job_id="r")


@pytest.mark.parametrize(
    "raw",
    [
        {"id": "j", "user_id": "u", "type": "video_fast", "prompt": "p", "config": {"frames": None, "clip_skip": 5}, "unknown": [1]},
        {"job_id": "j", "user_id": "u", "job_type": "wan_video_fast", "prompt": "p", "metadata": {"anything": {}}, "config": None},
    ],
)
def test_nulls_aliases_and_unknown_names_are_accepted_by_schema_and_worker(raw: dict[str, Any]) -> None:
    validator(BY_NAME["wan"], "request").validate(raw)
    BY_NAME["wan"].request.parse(raw, job_id="r")


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        *[("sdxl", each) for each in (payloads.sdxl(), payloads.failed(), payloads.processing(), payloads.completed(payloads.image()))],
        *[("wan", each) for each in (payloads.wan(), payloads.failed(), payloads.completed(payloads.video(), metadata=payloads.WAN))],
        ("chat", payloads.chat()),
        ("chat", payloads.completed(payloads.text(), metadata=payloads.CHAT, **payloads.TOP_LEVEL)),
    ],
)
def test_payloads_match_their_schema(name: str, payload: AnyPayload) -> None:
    validator(BY_NAME[name], "payload").validate(to_dict(payload))


def test_payload_of_another_handler_does_not_match() -> None:
    assert not validator(BY_NAME["sdxl"], "payload").is_valid(to_dict(payloads.chat()))


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_contract_page_lists_every_field_and_alias(endpoint: Endpoint) -> None:
    page = (ROOT / "docs/contract.md").read_text("utf-8")
    for location in field_locations(endpoint.request).values():
        assert f"| `{location.path}` |" in page
        assert all(f".{alias}`" in page or f"`{alias}`" in page for _, alias in location.documented_aliases())


def test_every_request_field_has_a_description() -> None:
    models: list[type[Request]] = [endpoint.request for endpoint in ENDPOINTS]
    assert [name for model in models for name in field_locations(model) if not model.model_fields[name].description] == []


def test_other_pages_list_every_error_and_variable() -> None:
    errors, environment = ((ROOT / f"docs/{name}.md").read_text("utf-8") for name in ("errors", "environment"))
    assert all(f"`{error.code}`" in errors for error in ERRORS)
    assert "`SUPABASE_SERVICE_KEY`" in environment
    assert all(f"`{name.upper()}`" in environment for name in Settings.model_fields if name != "supabase_key")
