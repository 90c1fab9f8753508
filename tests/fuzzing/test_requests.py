"""What the schemas allow is read, and what they do not is refused by name, before any work."""

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
from tests.fuzzing.cross_field_rules import Values, blamed
from tests.fuzzing.exploration import examples, explore
from tests.fuzzing.invalid_requests import CANARY, Mutant, mutants, put, spots, take
from tests.fuzzing.requests import FORMS, OPERATOR, Form, allowed, valid
from tests.shared.jobs.conftest import ScriptedRecipe, run

forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


@dataclass(frozen=True)
class Refusals:
    """Workers that have every request judged, and make nothing."""

    workers: dict[str, Worker[Any]]

    def of(self, form: Form, raw: object) -> Failed:
        """How a job with this input ends."""
        end = asyncio.run(run_job(Job("r", raw), self.workers[form.name], run("r")))
        assert isinstance(end, Failed)
        return end


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusals]:
    def making(request: Request, run: Any) -> NoReturn:
        raise AssertionError("it was made although it is wrong")

    settings = Settings()
    disk = LocalDisk(tmp_path_factory.mktemp("out"))
    disk.keeps_callbacks = False
    with GpuThread() as gpu, ThreadPoolExecutor(4) as threads:
        callbacks = CallbackDispatcher(disk, Webhook(settings), threads, always_callback=False, send_processing=False)
        yield Refusals(
            {form.name: Worker("w", form.model, ScriptedRecipe(making), OPERATOR, disk, Fetcher(settings), callbacks, gpu) for form in FORMS}
        )


def refused(form: Form, raw: object) -> set[str]:
    """The fields that are blamed; none where it is read."""
    try:
        form.parse(raw)
    except ValidationError as error:
        return {problem.field for problem in error.problems}
    return set()


@forms
@examples(60, 300)
def test_what_a_schema_allows_is_read_or_breaks_a_rule_that_is_listed(form: Form, count: int) -> None:
    listed, schema = set(blamed(form.rules)), Draft202012Validator(form.schema)
    ends: Counter[str] = Counter()

    def check(sent: Values) -> None:
        raw = form.nest(sent)
        if form.name != "openai":
            schema.validate(raw)
        wrong = refused(form, raw)
        assert wrong <= listed
        ends.update(wrong or {"read"})

    explore(allowed(form), check, count)
    assert len(ends) >= 3, "rules are broken, so they are rules"


@forms
@examples(60, 300)
def test_a_valid_request_is_read_and_as_often_as_it_is_sent_it_says_the_same(form: Form, count: int) -> None:
    seen: set[str] = set()

    def check(sent: Values) -> None:
        raw = form.nest(sent)
        before = deepcopy(raw)
        first, again = form.parse(raw), form.parse(raw)
        assert raw == before, "what a caller sends is not changed"
        drawn = set() if any(name.endswith("seed") for name in sent) else {"seed"}
        assert first.model_dump(exclude=drawn) == again.model_dump(exclude=drawn)
        assert first.references == again.references
        seen.update(sent.keys())

    explore(valid(form), check, count)
    assert seen == {name for field in form.fields.values() for name in field.names}, "every name was read"


@forms
@examples(80, 600)
def test_the_one_thing_that_is_wrong_is_named_alone_before_any_work_and_is_not_repeated(
    form: Form, count: int, refusals: Refusals, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(mutant: Mutant) -> None:
        end = refusals.of(form, mutant.raw)
        metadata = end.payload.metadata
        assert (metadata.error_code, metadata.retryable, metadata.problems is not None) == ("VALIDATION_ERROR", False, True)
        assert [problem.field for problem in metadata.problems or ()] == [mutant.blamed]
        assert mutant.blamed in end.payload.error_message
        assert (metadata.timings["fetch"], metadata.timings["generate"]) == (0.0, 0.0)
        assert CANARY not in json.dumps(end.payload.model_dump(mode="json"), ensure_ascii=False)

    explore(mutants(form), check, count)
    said = "".join(capsys.readouterr())
    assert "job failed" in said
    assert CANARY not in said


def outcome(read: Callable[[], Request]) -> object:
    """What a request says, but for its seed, which may be drawn; or what is wrong with it."""
    try:
        return read().model_dump(exclude={"seed"})
    except ValidationError as error:
        return [str(problem) for problem in error.problems]


@forms
@examples(40, 200)
def test_null_is_as_if_it_were_not_there(form: Form, count: int) -> None:
    @st.composite
    def drawn(draw: st.DrawFn) -> tuple[Any, Any]:
        sent = draw(valid(form))
        spot = draw(st.sampled_from([spot for spot in spots(form, sent) if isinstance(spot.path[-1], str)]))
        return put(form, sent, spot, None), take(form, sent, spot)

    def check(pair: tuple[Any, Any]) -> None:
        with_null, without = pair
        assert outcome(lambda: form.parse(with_null)) == outcome(lambda: form.parse(without))

    explore(drawn(), check, count)


@forms
@examples(40, 200)
def test_a_name_that_means_nothing_changes_nothing_and_is_named(form: Form, count: int) -> None:
    """At the top, in `config` and in the objects within; what stands in `metadata`, or beside the text of a part, nobody asks about."""

    @st.composite
    def drawn(draw: st.DrawFn) -> tuple[Any, Any]:
        sent = draw(valid(form))
        more = {**sent, "x_unknown": draw(st.sampled_from([CANARY, 7, [[]], {"prompt": CANARY}]))}
        if form.name in ("sdxl", "wan"):
            more |= {"config.x_unknown": CANARY, "metadata.x_unknown": CANARY}
        if "config.loras" in sent:
            more["config.loras"] = [{**lora, "x_unknown": CANARY} for lora in sent["config.loras"]]
        return form.nest(sent), form.nest(more)

    def check(pair: tuple[Any, Any]) -> None:
        plain, more = (form.parse(raw) for raw in pair)
        assert plain.model_dump(exclude={"seed", "warnings"}) == more.model_dump(exclude={"seed", "warnings"})
        named = [warning.split("`")[1] for warning in more.warnings if "x_unknown" in warning]
        assert "x_unknown" in named
        assert set(named) <= {"x_unknown", "config.x_unknown", "config.loras[].x_unknown"}
        assert CANARY not in "".join(more.warnings)

    explore(drawn(), check, count)
