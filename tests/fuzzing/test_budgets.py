"""Pictures, schemas, templates and weights that are made to be expensive: each is refused or done with within its budget."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from handlers.chat.response_format import Constraint
from handlers.chat.structured.formats import grammar_of
from handlers.chat.structured.sandbox import LimitExceeded
from handlers.chat.template_renderer import TemplateRejected, template_renderer
from shared.errors import ValidationError
from shared.media.containers import UnreadableImage
from shared.media.images import open_image
from shared.models.lora_files import read_lora
from shared.models.lora_names import LoraTarget
from shared.weights.errors import WeightsError
from shared.weights.file_limits import limit_problem
from tests.budgets import within_budget
from tests.fuzzing.expensive_images import EXPENSIVE_IMAGES, expensive_image
from tests.fuzzing.exploration import examples, explore


@pytest.mark.parametrize("name", EXPENSIVE_IMAGES)
def test_a_picture_is_decoded_or_refused_within_its_budget(name: str) -> None:
    content = expensive_image(name)
    with within_budget(), suppress(UnreadableImage):
        assert open_image(content, seconds=60).mode == "RGB"


SCALARS = st.sampled_from(
    [
        {"type": "string", "minLength": 9_999},
        {"type": "string", "pattern": "(a|b)*a(a|b){20}"},
        {"type": "string", "pattern": "(a{1,100}){1,100}"},
        {"type": "integer", "multipleOf": 10_000_019},
        {"type": "integer", "minimum": -(10**30), "maximum": 10**30},
        {"type": "number", "multipleOf": 0.0001},
        {"enum": [f"value {number}" for number in range(900)]},
        {"$ref": "#/$defs/a"},
        {"$ref": "#"},
    ]
)


def combinations(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(children, min_size=1, max_size=4)
    return st.one_of(
        st.builds(lambda word, each: {word: each}, st.sampled_from(["allOf", "anyOf", "oneOf"]), lists),
        st.builds(lambda each: {"type": "object", "properties": {f"p{n}": one for n, one in enumerate(each)}, "required": ["p0"]}, lists),
        st.builds(lambda one, count: {"type": "array", "items": one, "minItems": count}, children, st.integers(0, 999)),
    )


@examples(40, 600)
def test_a_schema_is_compiled_or_refused_within_its_budget(count: int) -> None:
    def check(schema: dict[str, Any]) -> None:
        with suppress(ValidationError):
            assert grammar_of(Constraint("json", schema | {"$defs": {"a": {"type": "string"}}}, "response_format"))

    explore(st.recursive(SCALARS, combinations, max_leaves=12), check, count)


EXPRESSIONS = st.recursive(
    st.sampled_from(["messages[0].content", "range(99999)", "999", "'x'", "messages"]),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["*", "**", "+", "~", "%"]), inner),
        st.builds("({}|{})".format, inner, st.sampled_from(["list", "join", "length", "center(99999)", "tojson", "batch(9)|list", "sum"])),
    ),
    max_leaves=5,
)
TEMPLATES = st.recursive(
    st.builds("{{{{ {} }}}}".format, EXPRESSIONS),
    lambda body: st.one_of(
        st.builds("{{% for i in range({}) %}}{}{{% endfor %}}".format, st.sampled_from([9, 999, 99_999]), body),
        st.builds("{{% set x %}}{}{{% endset %}}{{{{ x }}}}".format, body),
        st.builds("{}{}".format, body, body),
    ),
    max_leaves=5,
)


@examples(30, 600)
def test_a_template_is_rendered_or_ended_within_its_budget(count: int) -> None:
    renderer, outcomes = template_renderer(), set()

    def check(template: str) -> None:
        try:
            renderer.render(template, [{"role": "user", "content": "hello"}], {}, continues=False)
            outcomes.add("rendered")
        except (TemplateRejected, LimitExceeded) as error:
            outcomes.add(type(error).__name__)

    explore(TEMPLATES, check, count)
    assert outcomes >= {"rendered", "LimitExceeded"}


VALUES = st.recursive(
    st.sampled_from([0, -1, 2**63, 10**30, "F32", "F99", "", None, "[" * 50_000]),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner)),
    max_leaves=6,
)
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "X"]),
        "shape": st.lists(st.sampled_from([0, 1, 2, 2**20, 2**40]), max_size=3),
        "data_offsets": st.sampled_from([[0, 0], [0, 8], [4, 0], [0, 2**50]]),
    }
)
HEADERS = st.dictionaries(
    st.sampled_from(["a.lora_down.weight", "a.lora_up.weight", "a.alpha", "__metadata__", "x" * 10_000]), st.one_of(TENSORS, VALUES)
)


@examples(200, 4_000)
def test_a_file_of_weights_is_read_or_refused_within_its_budget(count: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"

    def check(header: dict[str, Any]) -> None:
        content = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(8))
        assert limit_problem(path) is None
        with pytest.raises(WeightsError):  # it is for no model
            read_lora(path, LoraTarget("a model", {}, {}, {}))

    explore(HEADERS, check, count)
