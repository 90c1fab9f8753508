"""Requests that satisfy the schemas are accepted; invalid values are reported by name before any work."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shared.contract.request import Request
from shared.errors import ValidationError
from shared.fetch import Fetcher
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Failed, Job, Worker, run_job
from shared.settings import Settings
from shared.storage.local_disk import LocalDisk
from shared.webhooks import Webhook
from tests.fuzzing.cross_field_rules import Values, reported_fields
from tests.fuzzing.exploration import examples, explore
from tests.fuzzing.invalid_requests import CANARY, InvalidRequest, invalid_requests, locations, remove, replace
from tests.fuzzing.requests import FORMS, OPERATOR, Form, schema_valid, valid
from tests.shared.jobs.conftest import ScriptedRecipe, run

forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


@dataclass(frozen=True)
class ValidatingWorkers:
    """Workers whose recipes must never run."""

    workers: dict[str, Worker[Any]]

    def run(self, form: Form, raw: object) -> Failed:
        """Runs a job with an invalid input and returns its failure."""
        end = asyncio.run(run_job(Job("r", raw), self.workers[form.name], run("r")))
        assert isinstance(end, Failed)
        return end


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValidatingWorkers]:
    def making(request: Request, run: Any) -> NoReturn:
        raise AssertionError("generated although the request is invalid")

    settings = Settings()
    disk = LocalDisk(tmp_path_factory.mktemp("out"))
    disk.keeps_callbacks = False
    with GpuThread() as gpu, ThreadPoolExecutor(4) as threads:
        callbacks = CallbackDispatcher(disk, Webhook(settings), threads, always_callback=False, send_processing=False)
        yield ValidatingWorkers(
            {
                form.name: Worker("w", form.model, ScriptedRecipe(making), OPERATOR, disk, Fetcher(settings), callbacks, gpu)
                for form in FORMS
            }
        )


def rejected_fields(form: Form, raw: object) -> set[str]:
    """Returns the fields that are reported; empty if the request is accepted."""
    try:
        form.parse(raw)
    except ValidationError as error:
        return {problem.field for problem in error.problems}
    return set()


@forms
@examples(60, 300)
def test_a_schema_valid_request_is_accepted_or_violates_a_listed_rule(form: Form, count: int) -> None:
    listed, schema = set(reported_fields(form.rules)), Draft202012Validator(form.schema)
    outcomes: Counter[str] = Counter()

    def check(sent: Values) -> None:
        raw = form.nest(sent)
        if form.name != "openai":
            schema.validate(raw)
        reported = rejected_fields(form, raw)
        assert reported <= listed
        outcomes.update(reported or {"accepted"})

    explore(schema_valid(form), check, count)
    assert len(outcomes) >= 3, "the examples violate the rules"


@forms
@examples(300, 1500)
def test_parsing_a_valid_request_is_deterministic_and_does_not_modify_it(form: Form, count: int) -> None:
    seen: set[str] = set()

    def check(sent: Values) -> None:
        raw = form.nest(sent)
        before = deepcopy(raw)
        first, again = form.parse(raw), form.parse(raw)
        assert raw == before, "the input is not modified"
        random = set() if any(name.endswith("seed") for name in sent) else {"seed"}
        assert first.model_dump(exclude=random) == again.model_dump(exclude=random)
        assert first.references == again.references
        seen.update(sent.keys())

    explore(valid(form), check, count)
    assert seen == {name for field in form.fields.values() for name in field.names}, "every name and alias occurred"


@forms
@examples(80, 600)
def test_an_invalid_value_is_the_only_problem_reported_before_any_work_and_is_not_repeated(
    form: Form, count: int, workers: ValidatingWorkers, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(request: InvalidRequest) -> None:
        end = workers.run(form, request.raw)
        metadata = end.payload.metadata
        assert (metadata.error_code, metadata.retryable, metadata.problems is not None) == ("VALIDATION_ERROR", False, True)
        assert [problem.field for problem in metadata.problems or ()] == [request.reported]
        assert request.reported in end.payload.error_message
        assert (metadata.timings["fetch"], metadata.timings["generate"]) == (0.0, 0.0)
        assert CANARY not in json.dumps(end.payload.model_dump(mode="json"), ensure_ascii=False)

    explore(invalid_requests(form), check, count)
    log = "".join(capsys.readouterr())
    assert "job failed" in log
    assert CANARY not in log


@forms
def test_a_text_in_any_field_is_not_repeated(form: Form) -> None:
    messages = []
    for name in (name for field in form.fields.values() for name in field.names):
        try:
            form.parse(form.nest({name: CANARY}))
        except ValidationError as error:
            messages.append(error.message)
    assert len(messages) > len(form.fields) / 2, "most fields accept no such text"
    assert CANARY not in "".join(messages)


def outcome(parse: Callable[[], Request]) -> object:
    """Returns the parsed request without its seed, which may be random, or its problems."""
    try:
        return parse().model_dump(exclude={"seed"})
    except ValidationError as error:
        return [str(problem) for problem in error.problems]


@forms
@examples(40, 200)
def test_null_is_equivalent_to_absent(form: Form, count: int) -> None:
    @st.composite
    def requests(draw: st.DrawFn) -> tuple[Any, Any]:
        sent = draw(valid(form))
        location = draw(st.sampled_from([each for each in locations(form, sent) if isinstance(each.path[-1], str)]))
        return replace(form, sent, location, None), remove(form, sent, location)

    def check(pair: tuple[Any, Any]) -> None:
        with_null, without = pair
        assert outcome(lambda: form.parse(with_null)) == outcome(lambda: form.parse(without))

    explore(requests(), check, count)


@forms
@examples(40, 200)
def test_an_unknown_field_has_no_effect_and_is_reported_in_a_warning(form: Form, count: int) -> None:
    """At the top level, in `config` and in nested objects; additional keys of `metadata` and of message parts are allowed."""

    @st.composite
    def requests(draw: st.DrawFn) -> tuple[Any, Any]:
        sent = draw(valid(form))
        extended = {**sent, "x_unknown": draw(st.sampled_from([CANARY, 7, [[]], {"prompt": CANARY}]))}
        if form.name in ("sdxl", "wan"):
            extended |= {"config.x_unknown": CANARY, "metadata.x_unknown": CANARY}
        if "config.loras" in sent:
            extended["config.loras"] = [{**lora, "x_unknown": CANARY} for lora in sent["config.loras"]]
        return form.nest(sent), form.nest(extended)

    def check(pair: tuple[Any, Any]) -> None:
        plain, extended = (form.parse(raw) for raw in pair)
        assert plain.model_dump(exclude={"seed", "warnings"}) == extended.model_dump(exclude={"seed", "warnings"})
        named = [warning.split("`")[1] for warning in extended.warnings if "x_unknown" in warning]
        assert "x_unknown" in named
        assert set(named) <= {"x_unknown", "config.x_unknown", "config.loras[].x_unknown"}
        assert CANARY not in "".join(extended.warnings)

    explore(requests(), check, count)
