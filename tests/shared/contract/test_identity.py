"""Ids, callback URLs, and the identity of invalid requests."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contract.request import Identity, Operator, identify
from tests.shared.contract.requests import problem, problems, sdxl, wan

ALLOWING = Operator(callback_hosts=frozenset({"hooks.example.com", "ports.example.com:8443", "127.0.0.1"}))
BAD_IDS = ["../..", "%2e%2e", "a/b", "a\\b", "a\x00", "a\n", "ä", "🦊", "", "x" * 129, ".", "a b", 5, True, ["a"], {}]


@pytest.mark.parametrize("name", ["id", "job_id"])
def test_job_id_has_two_names(name: str) -> None:
    request = sdxl(**{"id": None, name: "A-1_z"})
    assert request.job_id == "A-1_z"


def test_both_names_of_the_job_id_must_agree() -> None:
    assert sdxl(id="j", job_id="j").job_id == "j"
    found = problem(sdxl, id="j", job_id="k")
    assert (found.field, found.allowed) == ("job_id", "the same as `id`")


@pytest.mark.parametrize("bad", BAD_IDS)
def test_ids_unsafe_for_storage_paths_are_rejected(bad: Any) -> None:
    assert problem(sdxl, id=bad).field == "id"
    assert problem(wan, user_id=bad).field == "user_id"


def test_images_and_videos_require_both_ids() -> None:
    assert set(problems(sdxl, id=None, user_id=None)) == {"id", "user_id"}
    assert set(problems(wan, id=None, user_id=None)) == {"id", "user_id"}


def test_ids_are_read_from_the_top_level_only() -> None:
    assert problem(sdxl, id=None, config={"id": "j"}, metadata={"job_id": "j"}).field == "id"


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com/x?y=1", "https://hooks.example.com:443/", "https://ports.example.com:8443/", "http://127.0.0.1:9/x"]
)
def test_callback_url_on_an_allowed_host_is_accepted(url: str) -> None:
    assert sdxl(ALLOWING, callback_url=url).callback_url == url


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example.com/",
        "http://hooks.example.com/",
        "https://user:pass@hooks.example.com/",
        "https://hooks.example.com@elsewhere.example.com/",
        "https://elsewhere.example.com\\@hooks.example.com/",
        "https://hooks.example.com.elsewhere.example/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/\n",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com:8443/",
        "https://hooks.example.com:22/",
        "https://hooks.example.com:0/",
        "https://ports.example.com/",
        "https://ports.example.com:443/",
        "https://ports.example.com:84/",
        "https://xn--a/",
        "https://[::1/",
        "https:///x",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
        "https://hooks.example.com/" + "x" * 2048,
        "hooks.example.com",
        "",
        5,
    ],
)
def test_other_callback_urls_are_rejected(url: Any) -> None:
    assert problem(lambda **changes: sdxl(ALLOWING, **changes), callback_url=url).field == "callback_url"


def test_without_allowed_hosts_every_callback_url_is_rejected() -> None:
    assert problem(sdxl, callback_url="https://hooks.example.com/").field == "callback_url"


def test_identity_of_a_valid_request() -> None:
    raw = {"id": "j", "user_id": "u", "job_type": "video_fast", "callback_url": "https://hooks.example.com/x"}
    assert identify(raw, job_id="r", operator=ALLOWING) == Identity("j", "u", "video_fast", "https://hooks.example.com/x", "r")


def test_identity_of_an_invalid_request_has_its_valid_fields() -> None:
    raw = {"id": "../x", "user_id": "u", "type": ["x"], "callback_url": "https://elsewhere.example.com/", "config": 5}
    assert identify(raw, job_id="r", operator=ALLOWING) == Identity("r", "u", None, None, "r")


@pytest.mark.parametrize("raw", [None, [], "x", 5, {}, {5: 6}, {"id": {"id": {}}}, {"id": "\ud800", "user_id": "\x00", "type": "a b"}])
def test_identify_never_raises(raw: Any) -> None:
    assert identify(raw, job_id="r") == Identity("r", None, None, None, "r")
