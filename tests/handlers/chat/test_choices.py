"""Several completions of one request, and log probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.logprobs import SampledLogprob, TokenDescriber
from handlers.chat.prompts import render_chat_template
from handlers.chat.recipe import ChatRecipe, ChatSettings
from handlers.chat.request import ChatRequest
from shared.errors import Cancelled, GenerationError
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.recipe import TextOutput
from tests.doubles.echo import EchoEngine, EchoStream
from tests.handlers.chat.engine_fixtures import ENDLESS, engine_of
from tests.handlers.chat.tokenizer_fixtures import byte_fallback, word_pieces
from tests.handlers.conftest import RecordedRun, chat, generate


@pytest.fixture(scope="module")
def engine(instruct: ChatModel) -> Iterator[TransformersEngine]:
    with engine_of(instruct) as engine:
        yield engine


@pytest.fixture(scope="module")
def recipe(engine: TransformersEngine) -> ChatRecipe:
    return ChatRecipe(engine, ChatSettings())


def complete(recipe: ChatRecipe, recorded: RecordedRun | None = None, **fields: Any) -> list[TextOutput]:
    outputs = generate(recipe, chat("hello", **{"max_tokens": 12} | fields), recorded)
    return [output for output in outputs if isinstance(output, TextOutput)]


def test_each_choice_is_the_completion_of_its_own_seed(recipe: ChatRecipe) -> None:
    several = complete(recipe, n=3, seed=7, temperature=1.0)
    alone = [complete(recipe, seed=seed, temperature=1.0)[0] for seed in (7, 8, 9)]
    assert [each.content for each in several] == [each.content for each in alone]
    assert [each.metadata["seed"] for each in several] == [7, 8, 9]


def test_the_usage_counts_all_choices_and_the_prompt_once(recipe: ChatRecipe) -> None:
    request = chat("hello", max_tokens=5, n=3)
    outputs = generate(recipe, request)
    usage: Any = recipe.summarize(request, outputs).top_level["usage"]
    assert usage["completion_tokens"] == 15
    assert usage["total_tokens"] == usage["prompt_tokens"] + 15


def test_the_pieces_of_each_choice_add_up_to_its_text(recipe: ChatRecipe) -> None:
    recorded = RecordedRun()
    outputs = complete(recipe, recorded, n=3, seed=7, temperature=1.0, stream=True)
    for index, output in enumerate(outputs):
        assert "".join(piece.text for piece in recorded.pieces if piece.index == index) == output.content


def test_the_failure_of_one_choice_ends_the_others(tokenizer: Any) -> None:
    class Failing(EchoEngine):
        streams = 0

        def submit(self, request: ChatRequest, cancel: CancelToken) -> EchoStream:
            self.streams += 1
            text = "x" * 20 if self.streams == 1 else "[fail]"
            return EchoStream(self._tokenizer, text, cancel)

    with pytest.raises(GenerationError, match="echo has failed"):
        complete(ChatRecipe(Failing(tokenizer), ChatSettings()), n=2)


def test_cancelling_a_job_ends_all_its_choices(recipe: ChatRecipe, engine: TransformersEngine) -> None:
    request = ENDLESS.model_copy(update={"n": 2})
    with pytest.raises(Cancelled):
        generate(recipe, request, RecordedRun(stop_at=2))
    assert complete(recipe)[0].content
    assert not engine._pool.sequences


def test_log_probabilities_are_those_of_the_model(recipe: ChatRecipe, instruct: ChatModel) -> None:
    """Those of the raw logits, also where penalties choose another token than the most likely one."""
    output = complete(recipe, logprobs=True, top_logprobs=2, presence_penalty=2.0)[0]
    entries: Any = output.metadata["logprobs"]
    assert len(entries) == output.metadata["tokens_generated"]
    prompt = render_chat_template(instruct.tokenizer, chat("hello").messages)
    with torch.inference_mode():
        logits = instruct.model(torch.tensor([prompt])).logits[0, -1, : len(instruct.tokenizer)]
    expected = logits.float().log_softmax(-1)
    assert entries[0]["logprob"] == pytest.approx(float(expected.max()), abs=1e-4)
    assert [each["logprob"] for each in entries[0]["top_logprobs"]] == pytest.approx(expected.topk(2).values.tolist(), abs=1e-4)


def test_the_bytes_of_the_tokens_add_up_to_the_text(recipe: ChatRecipe) -> None:
    for seed in range(4):
        output = complete(recipe, logprobs=True, temperature=1.5, top_p=1.0, seed=seed)[0]
        entries: Any = output.metadata["logprobs"]
        spelled = bytes(byte for entry in entries for byte in entry["bytes"]).decode(errors="replace")
        assert spelled.rstrip("\ufffd") == output.content.rstrip("\ufffd")


def test_streamed_log_probabilities_are_those_of_the_whole(recipe: ChatRecipe) -> None:
    recorded = RecordedRun()
    output = complete(recipe, recorded, logprobs=True, stream=True, stop="zzz")[0]
    streamed = [each.logprob for piece in recorded.pieces for each in piece.logprobs]
    whole: Any = output.metadata["logprobs"]
    assert streamed == [each["logprob"] for each in whole]


def test_requesting_log_probabilities_does_not_change_the_text(recipe: ChatRecipe) -> None:
    plain, with_them = complete(recipe, temperature=1.0, seed=3), complete(recipe, temperature=1.0, seed=3, logprobs=True, top_logprobs=20)
    assert plain[0].content == with_them[0].content


@pytest.mark.parametrize("make", [byte_fallback, word_pieces])
def test_tokens_of_any_tokenizer_are_described(make: Any) -> None:
    tokenizer = make()
    describer = TokenDescriber(tokenizer)
    for token in range(len(tokenizer)):
        described = describer.describe(SampledLogprob(token, -math.inf, ((token, -1.0),)))
        assert bytes(described.bytes).decode(errors="replace") == described.token
        assert described.logprob == -9999.0
