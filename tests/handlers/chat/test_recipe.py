"""The chat recipe with small models of random weights: the text is noise, but sampling, stopping and reporting are exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from handlers.chat.engine import InferenceEngine
from handlers.chat.engines.transformers.chat_format import ModelSpec
from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.prompts import render_chat_template
from handlers.chat.recipe import ChatRecipe, ChatSettings
from handlers.chat.request import ChatRequest
from shared.errors import Cancelled, ContextLengthExceeded, ModelUnavailable
from shared.jobs.recipe import Recipe, TextOutput
from tests.handlers.chat.engine_fixtures import with_transformers_layers
from tests.handlers.conftest import RecordedRun, chat, generate, text

Chat = Recipe[ChatRequest]


def complete(recipe: Chat, request: ChatRequest) -> TextOutput:
    return text(generate(recipe, request))


def engine_of(recipe: Chat) -> InferenceEngine:
    assert isinstance(recipe, ChatRecipe)
    return recipe.engine


def rendered(model: ChatModel, request: ChatRequest) -> list[int]:
    return render_chat_template(model.tokenizer, request.messages)


def test_temperature_0_matches_greedy_search_of_transformers(chat_recipe: Chat, instruct: ChatModel) -> None:
    request = chat("hello there", max_tokens=24)
    prompt = torch.tensor([rendered(instruct, request)])
    greedy: Any = with_transformers_layers(instruct).model.generate
    reference = greedy(prompt, max_new_tokens=24, do_sample=False, repetition_penalty=1.0, temperature=None, top_p=None, top_k=None)
    expected = str(instruct.tokenizer.decode(reference[0, prompt.shape[1] :], skip_special_tokens=True))
    assert complete(chat_recipe, request).content.rstrip("�") == expected.rstrip("�")


def test_the_sampling_defaults_of_the_generation_config_are_not_used(chat_recipe: Chat, instruct: ChatModel) -> None:
    """The small model's generation config sets a repetition penalty and a top-k, as Qwen's does."""
    defaults = instruct.model.generation_config
    assert defaults.repetition_penalty != 1.0
    plain = complete(chat_recipe, chat("hello there", max_tokens=64))
    assert (
        plain.content
        != complete(chat_recipe, chat("hello there", max_tokens=64, repetition_penalty=defaults.repetition_penalty + 0.5)).content
    )


def test_sampling_is_reproducible_for_a_seed(chat_recipe: Chat) -> None:
    one, same, other = (complete(chat_recipe, chat("hello", temperature=1.0, top_p=1.0, seed=seed)).content for seed in (7, 7, 8))
    assert one == same
    assert one != other


def test_a_randomly_chosen_seed_is_reported(chat_recipe: Chat) -> None:
    first = complete(chat_recipe, chat("hello", temperature=1.0))
    second = complete(chat_recipe, chat("hello", temperature=1.0, seed=first.metadata["seed"]))
    assert second.content == first.content


def test_a_higher_temperature_gives_more_varied_completions(chat_recipe: Chat) -> None:
    greedy = complete(chat_recipe, chat("hello", max_tokens=32)).content
    cold, warm, hot = (
        complete(chat_recipe, chat("hello", max_tokens=32, temperature=t, top_p=1.0, seed=7)).content for t in (0.001, 0.7, 2.0)
    )
    assert cold == greedy
    assert len({greedy, warm, hot}) == 3


@pytest.mark.parametrize("temperature", [1e-5, 1e-39, 1e-300, 5e-324])
def test_a_temperature_near_0_converges_to_greedy_decoding(chat_recipe: Chat, temperature: float) -> None:
    assert complete(chat_recipe, chat("hello", temperature=temperature)).content == complete(chat_recipe, chat("hello")).content


def test_the_strongest_penalties_still_give_a_completion(chat_recipe: Chat) -> None:
    strong = {"repetition_penalty": 0.1, "presence_penalty": -2.0, "frequency_penalty": 2.0}
    assert complete(chat_recipe, chat("hello", temperature=2.0, max_tokens=32, **strong)).metadata["tokens_generated"]


def test_top_p_0_keeps_only_the_most_likely_token(chat_recipe: Chat) -> None:
    greedy = complete(chat_recipe, chat("hello"))
    assert complete(chat_recipe, chat("hello", temperature=2.0, top_p=0.0, seed=3)).content == greedy.content


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_penalties_reduce_repetition(chat_recipe: Chat, instruct: ChatModel, penalty: str) -> None:
    request = chat("hello", max_tokens=64, **{penalty: 2.0})
    plain, varied = (complete(chat_recipe, each).content for each in (chat("hello", max_tokens=64), request))
    distinct_tokens = [len(set(instruct.tokenizer(content).input_ids)) for content in (plain, varied)]
    assert distinct_tokens[1] >= distinct_tokens[0]
    assert varied != plain


def test_a_stop_string_that_spans_several_tokens_ends_the_completion(chat_recipe: Chat) -> None:
    whole = complete(chat_recipe, chat("hello", max_tokens=40)).content
    stop = whole[9:14]
    stopped = complete(chat_recipe, chat("hello", max_tokens=40, stop=stop))
    assert stopped.content == whole[: whole.index(stop)]
    assert stopped.metadata["finish_reason"] == "stop"


def test_the_finish_reason_is_length_after_exactly_max_tokens(chat_recipe: Chat) -> None:
    output = complete(chat_recipe, chat("hello", max_tokens=5))
    assert (output.metadata["tokens_generated"], output.metadata["finish_reason"]) == (5, "length")


def test_reported_text_only_grows_and_never_shows_part_of_a_stop_string(chat_recipe: Chat) -> None:
    whole = complete(chat_recipe, chat("hello", max_tokens=40)).content
    recorded = RecordedRun()
    end = text(generate(chat_recipe, chat("hello", max_tokens=40, stop=whole[9:14]), recorded)).content
    for earlier, later in zip(recorded.texts, [*recorded.texts[1:], end], strict=True):
        assert later.startswith(earlier)


def test_masked_words_never_appear_in_reported_text(settings: object, chat_recipe: Chat) -> None:
    whole = complete(chat_recipe, chat("hello", max_tokens=60)).content
    word = max((part for part in whole.split() if part.isalpha() and part.isascii()), key=len)
    recipe = ChatRecipe(engine_of(chat_recipe), ChatSettings(sfw_words=(word,)))
    recorded = RecordedRun()
    output = text(generate(recipe, chat("hello", max_tokens=60, sfw_mode=True), recorded)).content
    assert word not in output.split()
    assert "*" * len(word) in output
    assert not any(word in reported.split() for reported in recorded.texts)
    assert output.startswith(recorded.texts[-1])


def test_a_cancelled_job_ends_within_one_step(chat_recipe: Chat) -> None:
    recorded = RecordedRun(stop_at=3)
    with pytest.raises(Cancelled):
        generate(chat_recipe, chat("hello", max_tokens=200), recorded)
    assert len(recorded.steps) <= 4


def test_a_conversation_that_exceeds_the_context_window_is_rejected_with_both_lengths(chat_recipe: Chat, instruct: ChatModel) -> None:
    window = instruct.context_length
    with pytest.raises(ContextLengthExceeded, match=rf"max_tokens.*\(100\).*{window} tokens"):
        generate(chat_recipe, chat("word " * window, max_tokens=100))


def test_a_conversation_that_exactly_fits_is_completed(chat_recipe: Chat, instruct: ChatModel) -> None:
    window = engine_of(chat_recipe).models["qwen_instruct"].context_length
    prompt = len(rendered(instruct, chat("hello")))
    chat_recipe.check(chat("hello", max_tokens=min(window - prompt, 4096)))


def test_sfw_mode_requires_a_word_list(chat_recipe: Chat) -> None:
    with pytest.raises(ModelUnavailable, match="sfw_mode"):
        generate(chat_recipe, chat("hello", sfw_mode=True))


def test_an_unavailable_model_is_rejected_with_the_available_ones(chat_recipe: Chat, instruct: ChatModel) -> None:
    only = ChatRecipe(TransformersEngine([ModelSpec("qwen_instruct", lambda: instruct)]), ChatSettings())
    with pytest.raises(ModelUnavailable, match=r"qwen_base.*Available: qwen_instruct"):
        generate(only, chat("hello", model="qwen_base"))


def test_the_base_model_completes_without_a_leading_space(chat_recipe: Chat) -> None:
    output = complete(chat_recipe, chat("hello", model="qwen_base", max_tokens=12))
    assert output.metadata["model_used"] == "qwen_base"
    assert output.content == output.content.lstrip()


def test_the_top_level_of_the_payload_repeats_the_asset_metadata(chat_recipe: Chat) -> None:
    request = chat("hello", max_tokens=5)
    outputs = generate(chat_recipe, request)
    summary = chat_recipe.summarize(request, outputs)
    output = text(outputs)
    assert summary.top_level["response"] == output.content
    usage = summary.top_level["usage"]
    assert usage == {
        "prompt_tokens": output.metadata["prompt_tokens"],
        "completion_tokens": 5,
        "total_tokens": int(str(output.metadata["prompt_tokens"])) + 5,
    }
    assert "enhanced_prompt" not in summary.top_level
    assert summary.metadata["system_prompt_used"] == "none"


def test_an_enhancement_reports_the_enhanced_prompt(chat_recipe: Chat) -> None:
    raw = {"type": "enhance", "prompt": "a heron", "system_prompt": "Be brief.", "max_tokens": 4, "temperature": 0}
    request = ChatRequest.parse(raw, job_id="j")
    summary = chat_recipe.summarize(request, generate(chat_recipe, request))
    assert summary.top_level["enhanced_prompt"] == summary.top_level["response"]
    assert summary.metadata["system_prompt_used"] == "custom"
    assert "Be brief." not in str(summary)
