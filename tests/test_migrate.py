"""docs/migrate.md: every name of before that the page lists is accepted, and means the canonical field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from handlers.chat.request import ChatRequest
from handlers.sdxl.request import SdxlRequest
from handlers.wan.request import WanRequest
from shared.contract.request import Request
from shared.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/migrate.md").read_text(encoding="utf-8")
REQUESTS: dict[str, type[Request]] = {"sdxl": SdxlRequest, "wan": WanRequest, "chat": ChatRequest}
MINIMAL: dict[str, dict[str, Any]] = {
    "sdxl": {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "a heron"},
    "wan": {"id": "j", "user_id": "u", "type": "video_fast", "prompt": "a heron"},
    "chat": {"type": "chat", "messages": [{"role": "user", "content": "a heron"}]},
}
IMAGE = "https://example.com/a.png"
VALUES: dict[str, Any] = {
    "id": "other", "type": {"sdxl": "sdxl_image_high", "wan": "video_high", "chat": "chat_conversation"},
    "config.num_images": 3, "config.steps": 30, "config.seed": 11, "metadata.reference_image_url": IMAGE, "metadata.denoise_strength": 0.3,
    "config.frames": 33, "config.guidance_scale": 5.0, "config.reference_mode": "none", "config.image": IMAGE, "config.first_frame": IMAGE,
    "config.last_frame": IMAGE, "max_tokens": 7,
}  # fmt: skip
CONTEXT: dict[str, dict[str, Any]] = {
    "config.image": {"config": {"reference_mode": "single"}},
    "config.first_frame": {"config": {"reference_mode": "start"}},
    "config.last_frame": {"config": {"reference_mode": "end"}},
    "metadata.denoise_strength": {"metadata": {"reference_image_url": IMAGE}},
}
"""What a field requires."""
ROWS = [
    (handler, alias, canonical)
    for handlers, before, canonical in re.findall(r"^\| (all|`\w+`) \| ((?:`[\w.]+`(?:, )?)+) \| `([\w.]+)` \|$", PAGE, flags=re.MULTILINE)
    for alias in re.findall(r"`([\w.]+)`", before)
    for handler in (REQUESTS if handlers == "all" else [handlers.strip("`")])
]


def parsed(handler: str, path: str, canonical: str) -> Request:
    """Parses a minimal request with a value at a path."""
    body = {**MINIMAL[handler]}
    if path != canonical:
        body.pop(canonical, None)
    for section, fields in CONTEXT.get(canonical, {}).items():
        body[section] = dict(fields)
    value = VALUES[canonical]
    value = value[handler] if isinstance(value, dict) else value
    *sections, name = path.split(".")
    (body.setdefault(sections[0], {}) if sections else body)[name] = value
    return REQUESTS[handler].parse(body, job_id="j")


@pytest.mark.parametrize(("handler", "alias", "canonical"), ROWS)
def test_a_name_of_before_means_the_canonical_field(handler: str, alias: str, canonical: str) -> None:
    assert parsed(handler, alias, canonical).warnings == ()
    assert parsed(handler, alias, canonical) == parsed(handler, canonical, canonical)


def test_size_means_width_and_height() -> None:
    assert "| `wan` | `size` | `config.width` and `config.height` |" in PAGE
    sent = WanRequest.parse({**MINIMAL["wan"], "config": {"size": "480*832"}}, job_id="j")
    assert (sent.width, sent.height) == (480, 832)


def test_types_of_before_mean_the_types_of_now() -> None:
    rows = re.findall(r"^\| `(\w+)`, `(\w+)` \| `(\w+)`, `(\w+)`(.*)\|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 3
    for fast, high, fast_now, high_now, remark in rows:
        for before, now in ((fast, fast_now), (high, high_now)):
            request = WanRequest.parse({**MINIMAL["wan"], "type": before}, job_id="j")
            assert request.type == now
            assert bool(request.warnings) == bool(remark.strip(" ;"))


def test_buckets_and_variables_of_the_page_are_those_of_the_settings() -> None:
    settings = Settings()
    assert f"one bucket, `STORAGE_BUCKET` (`{settings.storage_bucket}`)" in PAGE
    *others, last = (f"`{bucket}`" for bucket in settings.reference_buckets)
    assert f"by default {', '.join(others)} and {last}." in PAGE
