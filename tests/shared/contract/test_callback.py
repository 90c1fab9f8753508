"""Payloads: keys, serialization, and consistency checks."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from pydantic import ValidationError as PydanticError

from shared.contract.callback import FailedMetadata, Payload, to_dict, to_json
from shared.errors import ERRORS
from tests.shared.contract import payloads
from tests.shared.contract.payloads import AnyPayload

EVERY = [payloads.sdxl(), payloads.wan(), payloads.chat(), payloads.failed(), payloads.processing(), payloads.completed(payloads.image())]


@pytest.mark.parametrize("payload", EVERY, ids=lambda payload: type(payload).__name__)
def test_webhook_body_and_return_value_are_equal(payload: AnyPayload) -> None:
    assert json.loads(to_json(payload)) == to_dict(payload)


def test_body_is_compact_utf_8() -> None:
    body = to_json(payloads.completed(metadata=payloads.SDXL | {"note": "é🦊"}))
    assert "é🦊".encode() in body
    assert b": " not in body
    assert b", " not in body


def test_completed_payload_has_the_keys_of_the_contract() -> None:
    sent = to_dict(payloads.completed(payloads.image()))
    assert set(sent) == {"job_id", "worker_id", "status", "assets", "metadata", "error_message", "completedAt"}
    assert (sent["status"], sent["error_message"], sent["completedAt"]) == ("completed", None, "2026-01-01T00:00:00.000Z")
    assert sent["metadata"] == payloads.SDXL


@pytest.mark.parametrize("payload", [payloads.sdxl(), payloads.wan(), payloads.chat()], ids=lambda payload: type(payload).__name__)
def test_completed_payload_clears_the_error_of_an_earlier_attempt(payload: AnyPayload) -> None:
    metadata = to_dict(payload)["metadata"]
    assert {name: metadata[name] for name in ("error_code", "error_type", "retryable", "assets_pending")} == payloads.CLEARED


def test_worker_version_is_the_version_of_the_project() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert to_dict(payloads.sdxl())["metadata"]["worker_version"] == project["version"]
    assert to_dict(payloads.failed())["metadata"]["worker_version"] == project["version"]


def test_chat_keys_are_at_the_top_level() -> None:
    sent = to_dict(payloads.completed(payloads.text(), metadata=payloads.CHAT, **payloads.TOP_LEVEL))
    assert {key: sent[key] for key in payloads.TOP_LEVEL} == payloads.TOP_LEVEL
    assert "enhanced_prompt" not in sent


def test_video_asset_has_its_duration_at_both_levels() -> None:
    sent = to_dict(payloads.wan())["assets"][0]
    assert (sent["type"], sent["duration_seconds"]) == ("video", 1.125)
    assert {"frames", "frame_num", "fps", "duration"} <= set(sent["metadata"])


def test_failed_payload_lists_the_problems() -> None:
    sent = to_dict(payloads.failed())
    assert (sent["status"], sent["assets"], sent["error_message"]) == ("failed", [], "No.")
    assert sent["metadata"]["problems"] == [
        {"field": "config.steps", "sent": "99", "allowed": "a whole number from 10 to 50", "nearest": "50"}
    ]


def test_processing_payload_has_no_result() -> None:
    assert to_dict(payloads.processing()) == {
        "job_id": "J",
        "worker_id": "sdxl_worker_local",
        "status": "processing",
        "assets": [],
        "metadata": {"runpod_id": "run-1"},
        "error_message": None,
    }


@pytest.mark.parametrize("payload", EVERY, ids=lambda payload: type(payload).__name__)
def test_payloads_are_discriminated_by_status(payload: AnyPayload) -> None:
    read: Payload = TypeAdapter(Payload).validate_json(to_json(payload))
    assert to_dict(read) == to_dict(payload)


def test_metadata_is_open_and_keeps_nulls() -> None:
    assert to_dict(payloads.completed(metadata=payloads.SDXL | {"own": [1, None]}))["metadata"]["own"] == [1, None]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", object(), np.float32(1), np.int64(1), {1, 2}])
def test_values_that_are_not_json_are_rejected(value: Any) -> None:
    with pytest.raises(PydanticError):
        payloads.completed(metadata=payloads.SDXL | {"own": value})


@pytest.mark.parametrize("name", ["processing_time", "generation_time"])
def test_non_finite_numbers_are_rejected(name: str) -> None:
    with pytest.raises(PydanticError):
        payloads.completed(metadata=payloads.SDXL | {name: float("nan")})


def test_unpaired_surrogates_are_rejected() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        to_json(payloads.completed(metadata=payloads.SDXL | {"own": "\ud800"}))


def test_asset_index_must_equal_the_position() -> None:
    with pytest.raises(PydanticError, match="position"):
        payloads.completed(payloads.image(1), payloads.image(0))


@pytest.mark.parametrize("change", [{"generation_seed": 99}, {"file_size_bytes": 99}, {"asset_index": 9}])
def test_repeated_values_of_an_asset_must_be_equal(change: dict[str, Any]) -> None:
    with pytest.raises(PydanticError, match="differ"):
        payloads.image(**change)


def test_error_codes_are_those_of_the_table() -> None:
    rest = {"runpod_id": "r", "retryable": True, "processing_time": 0.0, "timings": {}}
    for error in ERRORS:
        assert FailedMetadata.model_validate({"error_code": error.code, "error_type": error.__name__, **rest}).error_code == error.code
    with pytest.raises(PydanticError):
        FailedMetadata.model_validate({"error_code": "OTHER", "error_type": "Other", **rest})
