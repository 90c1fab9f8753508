"""The kinds of references, and their redacted representation."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contract.references import Reference
from tests.shared.contract.requests import problem, sdxl


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("https://example.com/a.png", "url"),
        ("HTTP://example.com/a.png", "url"),
        ("file:///etc/passwd", "url"),
        ("javascript:alert(1)", "url"),
        ("C:\\a.png", "url"),
        ("data:image/png;base64,AAAA", "data"),
        ("DATA:text/html,x", "data"),
        ("workspace-temp/u/j/0.png", "storage"),
        ("u/j/0.png", "storage"),
        ("../../etc/passwd", "storage"),
        ("//example.com/a.png", "storage"),
    ],
)
def test_kind_of_a_reference(text: str, kind: str) -> None:
    reference = Reference.parse(text)
    assert (reference.kind, reference.value) == (kind, text)


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@example.com/a.png?token=hunter2#hunter2",
        "https://example.com/a.png?hunter2",
        "https://[hunter2/a.png",
        "https://example.com:hunter2/a.png",
        "data:image/png;base64,hunter2",
        "u/j/0.png?token=hunter2",
    ],
)
def test_str_and_repr_contain_no_secret(text: str) -> None:
    reference = Reference.parse(text)
    assert "hunter2" not in f"{reference} {reference!r} {[reference]}"


def test_str_is_short_and_recognisable() -> None:
    assert str(Reference.parse("https://example.com:8443/a/b.png?x=1")) == "https://example.com:8443/a/b.png"
    assert str(Reference.parse("u/j/0.png")) == "u/j/0.png"
    assert len(str(Reference.parse("https://example.com/" + "a" * 100_000))) == 200
    assert str(Reference.parse("data:image/png;base64," + "A" * 100_000)) == "a data: URL of 100022 characters"


@pytest.mark.parametrize("value", ["", 5, True, ["https://example.com/a.png"], {"url": "x"}, "a\x00b", "\ud800"])
def test_reference_must_be_valid_text(value: Any) -> None:
    assert problem(sdxl, metadata={"reference_image_url": value}).field == "metadata.reference_image_url"


def test_forbidden_scheme_is_accepted_by_the_contract() -> None:
    (reference,) = sdxl(metadata={"reference_image_url": "file:///etc/passwd"}).references.values()
    assert reference.kind == "url"
