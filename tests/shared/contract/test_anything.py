"""Property-based: any input is parsed or rejected with a message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.contract.schemas import ENDPOINTS, Endpoint
from shared.contract.field_location import field_locations
from shared.contract.request import identify
from shared.errors import ValidationError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)


def inputs(endpoint: Endpoint) -> st.SearchStrategy[Any]:
    """Generates inputs with known names and arbitrary values, so that the validation of every field is reached."""
    names = sorted({name for location in field_locations(endpoint.request).values() for _, name in location.candidates()})
    objects = st.dictionaries(st.sampled_from(names) | st.text(max_size=8), JSON, max_size=8)
    types = st.sampled_from(["sdxl_image_fast", "video_fast", "chat"]) | JSON
    fixed = st.fixed_dictionaries(
        {"id": st.just("j") | JSON, "user_id": st.just("u"), "type": types, "prompt": st.just("p") | JSON},
        optional={"config": objects | JSON, "metadata": objects | JSON},
    )
    return st.builds(lambda one, other: one | other, objects, fixed) | JSON


def messages_about(endpoint: Endpoint, raw: Any) -> tuple[str, ...]:
    """Returns the warnings of a valid input, or the problems of an invalid one."""
    try:
        return endpoint.request.parse(raw, job_id="r").warnings
    except ValidationError as error:
        return error.message, *map(str, error.problems)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
@settings(deadline=None)  # a busy machine would exceed any
@given(data=st.data())
def test_any_input_is_parsed_or_rejected_with_a_message(endpoint: Endpoint, data: st.DataObject) -> None:
    messages = messages_about(endpoint, data.draw(inputs(endpoint)))
    assert all(text.isprintable() and len(text) < 10_000 for text in messages)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
@settings(deadline=None)  # a busy machine would exceed any
@given(data=st.data())
def test_any_input_has_an_identity(endpoint: Endpoint, data: st.DataObject) -> None:
    identity = identify(data.draw(inputs(endpoint)), job_id="r")
    assert identity.job_id.isascii()
    assert identity.callback_url is None
