"""Many conversations at once: nobody's answer depends on who else is being answered, and nobody's mishap is another's."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.chat.batching.engine import BatchingEngine
from handlers.chat.engine import Finished
from shared.contract.chat import ChatRequest
from shared.errors import Cancelled, ContextLengthExceeded, DeviceError, GenerationError, JobError, JobTimeout, OutOfMemory, ValidationError
from shared.jobs.cancel import CancelToken
from shared.models.language import ChatModel
from tests.handlers.chat_engines import answer, ask, engine_of, generated, outcome, own_copy, passes_of, texts, together

WORDS = ("hello", "a heron", "over the bay", "why?", "tell me more", "one two three four", "and then", "snow falls at night on the hills")
EIGHT = [ask(words, max_tokens=10 + 5 * index) for index, words in enumerate(WORDS)]
ALL_KINDS = [
    ask("hello"),
    ask("hello", temperature=0.7, top_p=0.9, seed=7),
    ask("a heron", temperature=1.0, top_p=1.0, seed=8, max_tokens=60),
    ask("why?", temperature=2.0, top_p=0.5, seed=9, repetition_penalty=1.3),
    ask("hello", max_tokens=40, presence_penalty=1.5),
    ask("more", max_tokens=5, frequency_penalty=2.0, temperature=1.0, seed=1),
    ask("hello " * 100, max_tokens=30, temperature=1.0, top_p=0.99, seed=2),
    ask("hello", response_format={"type": "json_object"}, temperature=1.0, seed=3),
]
"""Requests that have nothing in common."""
ENDLESS = ask(max_tokens=1900, repetition_penalty=0.5)
"""Words that are there are made likelier, so that it goes on and on."""
PER_TOKEN = 768
"""What a token takes in the small model: 2 × 3 layers × 2 heads × 16 × 4 bytes."""


@pytest.fixture(scope="module")
def engine(instruct: ChatModel) -> Iterator[BatchingEngine]:
    with engine_of(instruct) as made:
        yield made


def cost(rows: int, columns: int) -> int:
    """A budget for exactly so many rows of so many columns."""
    return ((rows + 1) * columns + 1) * PER_TOKEN * 16 // 15


# Whose answer it is


def test_greedy_answers_are_the_librarys_alone_and_with_seven_others(engine: BatchingEngine, instruct: ChatModel) -> None:
    expected = [generated(instruct, request).rstrip("�") for request in EIGHT]
    assert [answer(engine, request).text.rstrip("�") for request in EIGHT] == expected
    assert [text.rstrip("�") for text in texts(together(engine, EIGHT))] == expected


def test_no_answer_is_changed_by_its_neighbours_whatever_they_ask_for(engine: BatchingEngine) -> None:
    alone = [answer(engine, request).text for request in ALL_KINDS]
    assert texts(together(engine, ALL_KINDS)) == alone
    assert texts(together(engine, [*reversed(ALL_KINDS), *EIGHT]))[: len(alone)] == alone[::-1]


def test_a_seed_means_the_same_next_to_the_same_seed(engine: BatchingEngine) -> None:
    request = ask("hello", temperature=1.0, top_p=1.0, seed=7)
    assert len(set(texts(together(engine, [request] * 4)))) == 1
    assert answer(engine, request).text != answer(engine, request.model_copy(update={"seed": 8})).text


# Whose mishap it is


def test_one_that_is_too_long_one_that_is_stopped_and_one_with_a_broken_schema_disturb_nobody(engine: BatchingEngine) -> None:
    alone = [answer(engine, request).text for request in EIGHT]
    stopped = CancelToken(60)
    broken = {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
    ends: dict[str, JobError | Finished] = {}

    def mishap(name: str, request: ChatRequest, cancel: CancelToken | None = None) -> threading.Thread:
        thread = threading.Thread(target=lambda: ends.update({name: outcome(engine, request, cancel)}))
        thread.start()
        return thread

    threads = [
        mishap("long", ask("word " * 3000)),
        mishap("stopped", ENDLESS, stopped),
        mishap("schema", ask(response_format=broken)),
        mishap("greedy", ask(temperature=0)),
    ]
    others = together(engine, EIGHT)
    stopped.cancel()
    for thread in threads:
        thread.join()
    assert texts(others) == alone
    assert [type(ends[name]) for name in ("long", "stopped", "schema", "greedy")] == [
        ContextLengthExceeded,
        Cancelled,
        ValidationError,
        Finished,
    ]


def test_output_that_is_not_finite_fails_its_own_answer_and_leaves_nothing_behind(tiny_models: Path) -> None:
    model = own_copy(tiny_models)
    with engine_of(model) as engine:
        alone = [answer(engine, request).text for request in EIGHT]
        ids = model.tokenizer(alone[2], add_special_tokens=False).input_ids
        poison = next(token for token in ids[4:] if not any(token in tokens_of(model, text) for text in (*alone[:2], *alone[3:])))
        embedding: Any = model.model.get_input_embeddings()
        embedding.weight[poison] = torch.nan
        ends = together(engine, [*EIGHT, *EIGHT])
    for index, end in enumerate(ends):
        if index % len(EIGHT) == 2:
            assert isinstance(end, GenerationError)
        else:
            assert isinstance(end, Finished)
            assert end.text == alone[index % len(EIGHT)]


def tokens_of(model: ChatModel, text: str) -> list[int]:
    ids: list[int] = model.tokenizer(text, add_special_tokens=False).input_ids
    return ids


def test_where_memory_runs_out_the_longest_answer_ends_and_the_others_go_on(tiny_models: Path) -> None:
    model = own_copy(tiny_models)

    def runs_out(_module: object, _args: object, fields: dict[str, Any]) -> None:
        if len(fields["input_ids"]) > 5:
            raise torch.OutOfMemoryError("no memory")

    with engine_of(model) as engine:
        alone = [answer(engine, request).text for request in EIGHT]
        model.model.register_forward_pre_hook(runs_out, with_kwargs=True)
        ends = together(engine, EIGHT)
    assert any(isinstance(end, OutOfMemory) for end in ends)
    assert [end.text for end in ends if isinstance(end, Finished)] == [
        text for text, end in zip(alone, ends, strict=True) if isinstance(end, Finished)
    ]
    assert sum(isinstance(end, Finished) for end in ends) >= 5


def test_who_takes_the_place_of_output_that_was_not_finite_finds_nothing_of_it(tiny_models: Path) -> None:
    """The second fails at its first step; the third then joins in its place, shorter, while the first is longer than both."""
    model = own_copy(tiny_models)
    first, third = ask("hello " * 400, max_tokens=600), ask("why? " * 230, max_tokens=20)
    with engine_of(model) as engine:
        used = {token for request in (first, third) for token in tokens_of(model, answer(engine, request).text)}
        seconds = [ask(words + " bay" * 360, max_tokens=9) for words in WORDS]
        starts = {token: request for request in seconds for token in tokens_of(model, answer(engine, request).text)[:1]}
        poison, second = next((token, request) for token, request in starts.items() if token not in used)
        alone = answer(engine, third).text
        embedding: Any = model.model.get_input_embeddings()
        embedding.weight[poison] = torch.nan
        with engine.start(first, CancelToken(60)) as longest:
            next(iter(longest))
            with engine.start(second, CancelToken(60)) as fails, engine.start(third, CancelToken(60)) as joins:
                with pytest.raises(GenerationError):
                    list(fails)
                list(joins)
                assert joins.finished.text == alone


# Places


@pytest.mark.parametrize("how", ["stopped", "left"])
def test_one_that_is_stopped_or_that_nobody_reads_frees_its_place_at_once(tiny_models: Path, how: str) -> None:
    model = own_copy(tiny_models)
    with engine_of(model, budget=cost(1, 2048)) as small:
        cancel = CancelToken(60)
        with small.start(ENDLESS, cancel) as stream:
            pieces = iter(stream)
            next(pieces)
            if how == "stopped":
                cancel.cancel()
                with pytest.raises(Cancelled):
                    list(pieces)
        passes = passes_of(model)
        assert answer(small, ask(max_tokens=10)).completion_tokens == 10
        assert len(passes) <= 1 + 10 + 1, "the one before had at most the step in which it was stopped"


def test_one_whose_time_is_over_ends_waiting_or_not(engine: BatchingEngine, instruct: ChatModel) -> None:
    with engine_of(instruct, budget=cost(1, 2048)) as small:
        request = ENDLESS
        with small.start(request, CancelToken(0.2)) as first, small.start(request, CancelToken(0.1)) as second:
            for stream in (second, first):
                with pytest.raises(JobTimeout):
                    list(stream)


def test_more_than_fit_wait_in_their_order_and_all_are_answered(engine: BatchingEngine, instruct: ChatModel) -> None:
    alone = [answer(engine, request).text for request in EIGHT]
    with engine_of(instruct, budget=cost(2, 256)) as small:
        streams = [small.start(request, CancelToken(60)) for request in EIGHT]
        for stream, text in zip(streams, alone, strict=True):
            list(stream)
            assert stream.finished.text == text
        waited = [stream.finished.time_to_first_token for stream in streams]
        assert waited == sorted(waited)


def test_memory_is_never_promised_twice(tiny_models: Path) -> None:
    model = own_copy(tiny_models)
    model.model.config.max_position_embeddings = 16_384
    with engine_of(model, budget=cost(4, 4096)) as small:
        assert small.concurrency == 4, "of usual length"
        passes = passes_of(model)
        ends = together(small, [ask(words, max_tokens=4096, stop="e") for words in WORDS])
        assert {end.finish_reason for end in ends if isinstance(end, Finished)} == {"stop"}
        assert max(passes) == 3, "these may become longer"


def test_a_long_prompt_does_not_hold_back_short_ones(engine: BatchingEngine) -> None:
    long, *short = together(engine, [ask("hello " * 600, max_tokens=40), *[ask(words, max_tokens=3) for words in WORDS[:3]]])
    assert isinstance(long, Finished)
    for end in short:
        assert isinstance(end, Finished)
        assert end.seconds < long.time_to_first_token


def test_first_tokens_of_all_come_before_the_end_of_any(engine: BatchingEngine) -> None:
    ends = together(engine, [ask(words, max_tokens=60) for words in WORDS])
    answers = [end for end in ends if isinstance(end, Finished)]
    assert max(end.time_to_first_token for end in answers) < min(end.seconds for end in answers)


# Lengths


def test_what_just_fits_is_written_and_one_token_more_is_refused(engine: BatchingEngine) -> None:
    window = engine.models["qwen_instruct"].context_length
    prompt = answer(engine, ask(max_tokens=1)).prompt_tokens
    fits = "x" * (window - prompt - 40 + len("hello"))
    length = answer(engine, ask(fits, max_tokens=1)).prompt_tokens
    end = answer(engine, ask(fits, max_tokens=window - length))
    assert end.prompt_tokens + (end.completion_tokens if end.finish_reason == "length" else window - length) == window
    with pytest.raises(
        ContextLengthExceeded, match=rf"has {length} tokens.*asks for {window - length + 1} more.*{window}.*at most {window - length} "
    ):
        engine.check(ask(fits, max_tokens=window - length + 1))


def test_a_context_is_no_longer_than_there_is_memory_for(engine: BatchingEngine, instruct: ChatModel) -> None:
    with engine_of(instruct, budget=cost(1, 512)) as small:
        assert small.models["qwen_instruct"].context_length == 511
        with pytest.raises(ContextLengthExceeded, match="511"):
            small.check(ask(max_tokens=511))


# Ends


def test_when_the_engine_fails_everybody_is_told_and_the_worker_is_replaced(tiny_models: Path) -> None:
    model = own_copy(tiny_models)
    with engine_of(model) as engine:
        passes = 0

        def fails(_module: object, _args: object) -> None:
            nonlocal passes
            passes += 1
            if passes > 12:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

        model.model.register_forward_pre_hook(fails)
        ends = together(engine, [ask(words, max_tokens=200) for words in WORDS])
        assert [type(end) for end in ends] == [DeviceError] * len(WORDS)
        assert all(end.replaces_worker for end in ends if isinstance(end, JobError))
        with pytest.raises(DeviceError):
            engine.start(ask(), CancelToken(60))


def test_when_the_engine_fails_while_it_reads_those_who_are_read_are_told(tiny_models: Path) -> None:
    model = own_copy(tiny_models)

    def fails(_module: object, _args: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def read(engine: BatchingEngine) -> None:
        with pytest.raises(DeviceError):
            answer(engine, ask())

    with engine_of(model) as engine:
        model.model.register_forward_pre_hook(fails)
        reader = threading.Thread(target=read, args=(engine,), daemon=True)  # a test that fails does not wait for it
        reader.start()
        reader.join(20)
        assert not reader.is_alive(), "nobody has told who waits"


def test_an_engine_that_is_closed_ends_what_it_writes_and_takes_nothing_more(instruct: ChatModel) -> None:
    with engine_of(instruct) as engine:
        with engine.start(ENDLESS, CancelToken(60)) as stream:
            pieces = iter(stream)
            next(pieces)
            engine.close()
            with pytest.raises(Cancelled):
                list(pieces)
        with pytest.raises(Cancelled):
            engine.start(ask(), CancelToken(60))


def test_a_process_that_ends_while_it_writes_ends_well(tiny_models: Path) -> None:
    program = """if True:
        import sys
        from pathlib import Path

        from handlers.chat.batching.engine import BatchingEngine
        from handlers.chat.batching.voice import Source
        from shared.jobs.cancel import CancelToken
        from shared.models.language import load_chat
        from tests.handlers.chat_engines import CPU, ask

        model = load_chat(Path(sys.argv[1]), CPU, __import__("torch").float32)
        engine = BatchingEngine([Source("qwen_instruct", lambda: model)])
        next(iter(engine.start(ask(max_tokens=1900, repetition_penalty=0.5), CancelToken(60))))
    """
    done = subprocess.run([sys.executable, "-c", program, tiny_models / "qwen_instruct"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_place_is_free_when_its_answer_has_ended(engine: BatchingEngine) -> None:
    together(engine, EIGHT)
    engine._changed.acquire()
    engine._changed.release()
    assert engine._models.rows == []
