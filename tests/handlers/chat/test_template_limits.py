"""A chat template is a program that comes with the weights: it renders within limits of time, memory and length, and without secrets."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.chat.messages import Message
from handlers.chat.prompts import render_chat_template
from handlers.chat.template_renderer import TemplateRenderer, template_renderer
from shared.errors import ValidationError
from tests.budgets import processor_seconds_of_children

MESSAGES = [Message(role="user", content="hello")]

EXPENSIVE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "a power": "{{ 9 ** (9**9) }}",
    "a power of what is sent": "{{ (messages|length + 8) ** (9**9) }}",
    "a repeated text": "{{ 'x' * 10**10 }}",
    "a repeated list": "{{ ([0] * 10**10)|length }}",
    "a text that doubles": "{% set n = namespace(x='x') %}{% for _ in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a wide text": "{{ 'x'|center(10**10) }}",
    "a padded text": "{{ 'x'.ljust(10**10) }}",
    "400 MB in little time": "{{ ('x' * 4 * 10**8)|length }}",
    "a format": "{{ '%1000000000d' % 1 }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a long text": "{% for _ in range(90000) %}{{ messages[0].content }}{% endfor %}",
    "a replaced text": "{{ ('x' * 10**5).replace('x', 'y' * 10**5)|length }}",
    "filters": "{{ range(99999)|batch(2)|map('join')|map('replace', '1', '2' * 10**6)|join|length }}",
}


@pytest.fixture
def renderer() -> Iterator[TemplateRenderer]:
    yield template_renderer()
    template_renderer().close()


def with_template(tokenizer: Any, template: str) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


@pytest.mark.parametrize("template", EXPENSIVE.values(), ids=EXPENSIVE)
def test_an_expensive_template_is_ended_and_the_next_conversation_is_rendered(tokenizer: Any, template: str) -> None:
    good = render_chat_template(tokenizer, MESSAGES)
    before = processor_seconds_of_children()
    with pytest.raises(ValidationError, match=r"messages.*limits of time, memory or length"):
        render_chat_template(with_template(tokenizer, template), MESSAGES)
    assert processor_seconds_of_children() - before < 30, "each process is limited to 2 s after its start"
    assert render_chat_template(tokenizer, MESSAGES) == good


def test_the_sentence_of_a_template_reaches_the_caller_and_errors_of_the_interpreter_do_not(tokenizer: Any) -> None:
    with pytest.raises(ValidationError, match="No system role, please"):
        render_chat_template(with_template(tokenizer, "{{ raise_exception('No system role, please.') }}"), MESSAGES)
    with pytest.raises(ValidationError, match="cannot render these roles"):
        render_chat_template(with_template(tokenizer, "{{ 1 // 0 }}"), MESSAGES)


def test_the_process_has_no_secrets(renderer: TemplateRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_CALLBACK_SECRET", "canary-secret-of-the-worker")
    renderer.close()
    renderer.render("{{ messages[0].content }}", [{"role": "user", "content": "a"}], {}, continues=False)
    assert renderer._process is not None
    assert b"canary" not in Path(f"/proc/{renderer._process.pid}/environ").read_bytes()


def test_a_process_that_was_ended_from_outside_is_replaced(renderer: TemplateRenderer) -> None:
    def rendered() -> str:
        return renderer.render("{{ messages[0].content }}", [{"role": "user", "content": "a \ud800 b"}], {}, continues=False)

    assert rendered() == "a \ud800 b"
    assert renderer._process is not None
    os.kill(renderer._process.pid, 15)
    renderer._process.wait()
    with pytest.raises(Exception, match="could not render"):
        rendered()
    assert rendered() == "a \ud800 b"
