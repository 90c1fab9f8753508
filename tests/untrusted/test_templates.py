"""Chat templates are untrusted Jinja programs from the weights folder; the sandbox prevents them from executing code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.untrusted.conftest import AuditedLoader
from tests.untrusted.malicious_files import update_json

pytestmark = pytest.mark.slow

MESSAGES = "{% for message in messages %}{{ message.content }}{% endfor %}"
COMMAND = "system('mkdir {canary}')"
ESCAPES = {
    "by a class's subclasses": "{{{{ ().__class__.__base__.__subclasses__()[0] }}}}",
    "by a search among subclasses": (
        "{{% for each in ().__class__.__base__.__subclasses__() %}}{{% if each.__name__ == '_wrap_close' %}}"
        "{{{{ each.__init__.__globals__['system']('mkdir {canary}') }}}}{{% endif %}}{{% endfor %}}"
    ),
    "by cycler": "{{{{ cycler.__init__.__globals__.os." + COMMAND + " }}}}",
    "by joiner": "{{{{ joiner.__init__.__globals__.os." + COMMAND + " }}}}",
    "by namespace": "{{{{ namespace.__init__.__globals__.os." + COMMAND + " }}}}",
    "by lipsum": "{{{{ lipsum.__globals__['os']." + COMMAND + " }}}}",
    "by self": "{{{{ self.__init__.__globals__.__builtins__.__import__('os')." + COMMAND + " }}}}",
    "by self, through attr": "{{{{ (self|attr('__init__')|attr('__globals__')).os." + COMMAND + " }}}}",
    "by a helper of the library": "{{{{ raise_exception.__globals__['os']." + COMMAND + " }}}}",
    "by another helper": "{{{{ strftime_now.__globals__.os." + COMMAND + " }}}}",
    "by a text's format": "{{{{ '{{0.__class__.__init__.__globals__}}'.format(messages) }}}}",
    "by a text's format_map": "{{{{ '{{a.__class__.__mro__}}'.format_map({{'a': messages}}) }}}}",
    "by a map of attributes": "{{{{ [cycler]|map(attribute='__init__.__globals__')|list }}}}",
    "by a filter's function": "{{{{ (messages|map('upper')).gi_frame.f_globals.os." + COMMAND + " }}}}",
    "by a generator's frame": "{{{{ (messages|select).gi_frame.f_back.f_globals.os." + COMMAND + " }}}}",
    "by a macro": "{{% macro m() %}}{{% endmacro %}}{{{{ m._func.__globals__.os." + COMMAND + " }}}}",
    "by changing the messages": "{{{{ messages.append({{'role': 'user', 'content': 'more'}}) }}}}",
    "by including a file": "{{% include '/etc/passwd' %}}",
    "by importing a template": "{{% import '/etc/passwd' as other %}}",
    "by extending a template": "{{% extends '../../etc/passwd' %}}",
}


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("escape", ESCAPES)
def test_a_template_cannot_escape_the_sandbox(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, escape: str, file: str
) -> None:
    folder = Path(shutil.copytree(tiny_models / "qwen_instruct", hostile / "chat"))
    template = ESCAPES[escape].format(canary=canary) + MESSAGES
    if file == "chat_template.jinja":
        (folder / file).write_text(template)
    else:
        update_json(folder / file, chat_template=template)
    result = loader.load("chat", folder)
    assert result.events == []
    assert result.outcome.partition(":")[0] in {"ValidationError", "TypeError", "TemplateSyntaxError"}, result


def test_a_harmless_template_is_rendered(loader: AuditedLoader, tiny_models: Path, hostile: Path) -> None:
    folder = Path(shutil.copytree(tiny_models / "qwen_instruct", hostile / "chat"))
    update_json(folder / "tokenizer_config.json", chat_template=MESSAGES)
    assert loader.load("chat", folder).outcome == "loaded"
