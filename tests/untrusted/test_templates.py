"""A template of conversations comes with the weights and is a program: it reaches nothing outside of itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.untrusted.conftest import Guest
from tests.untrusted.malicious_files import edited

pytestmark = pytest.mark.slow

MESSAGES = "{% for message in messages %}{{ message.content }}{% endfor %}"
ACT = "system('mkdir {canary}')"
REACHING = {
    "by a class's subclasses": "{{{{ ().__class__.__base__.__subclasses__()[0] }}}}",
    "by a search among subclasses": (
        "{{% for each in ().__class__.__base__.__subclasses__() %}}{{% if each.__name__ == '_wrap_close' %}}"
        "{{{{ each.__init__.__globals__['system']('mkdir {canary}') }}}}{{% endif %}}{{% endfor %}}"
    ),
    "by cycler": "{{{{ cycler.__init__.__globals__.os." + ACT + " }}}}",
    "by joiner": "{{{{ joiner.__init__.__globals__.os." + ACT + " }}}}",
    "by namespace": "{{{{ namespace.__init__.__globals__.os." + ACT + " }}}}",
    "by lipsum": "{{{{ lipsum.__globals__['os']." + ACT + " }}}}",
    "by self": "{{{{ self.__init__.__globals__.__builtins__.__import__('os')." + ACT + " }}}}",
    "by self, through attr": "{{{{ (self|attr('__init__')|attr('__globals__')).os." + ACT + " }}}}",
    "by a helper of the library": "{{{{ raise_exception.__globals__['os']." + ACT + " }}}}",
    "by another helper": "{{{{ strftime_now.__globals__.os." + ACT + " }}}}",
    "by a text's format": "{{{{ '{{0.__class__.__init__.__globals__}}'.format(messages) }}}}",
    "by a text's format_map": "{{{{ '{{a.__class__.__mro__}}'.format_map({{'a': messages}}) }}}}",
    "by a map of attributes": "{{{{ [cycler]|map(attribute='__init__.__globals__')|list }}}}",
    "by a filter's function": "{{{{ (messages|map('upper')).gi_frame.f_globals.os." + ACT + " }}}}",
    "by a generator's frame": "{{{{ (messages|select).gi_frame.f_back.f_globals.os." + ACT + " }}}}",
    "by a macro": "{{% macro m() %}}{{% endmacro %}}{{{{ m._func.__globals__.os." + ACT + " }}}}",
    "by changing the messages": "{{{{ messages.append({{'role': 'user', 'content': 'more'}}) }}}}",
    "by including a file": "{{% include '/etc/passwd' %}}",
    "by importing a template": "{{% import '/etc/passwd' as other %}}",
    "by extending a template": "{{% extends '../../etc/passwd' %}}",
}


@pytest.mark.parametrize("at", ["tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("way", REACHING)
def test_no_template_reaches_out(guest: Guest, tiny_models: Path, hostile: Path, canary: Path, way: str, at: str) -> None:
    folder = Path(shutil.copytree(tiny_models / "qwen_instruct", hostile / "chat"))
    template = REACHING[way].format(canary=canary) + MESSAGES
    if at == "chat_template.jinja":
        (folder / at).write_text(template)
    else:
        edited(folder / at, chat_template=template)
    done = guest.load("chat", folder)
    assert done.seen == []
    assert done.outcome.partition(":")[0] in {"SecurityError", "UndefinedError", "TypeError", "TemplateSyntaxError", "TemplateNotFound"}, (
        done
    )


def test_the_same_template_without_its_reach_is_rendered(guest: Guest, tiny_models: Path, hostile: Path) -> None:
    folder = Path(shutil.copytree(tiny_models / "qwen_instruct", hostile / "chat"))
    edited(folder / "tokenizer_config.json", chat_template=MESSAGES)
    assert guest.load("chat", folder).outcome == "loaded"
