"""How a worker finds the engine beside it, and what it serves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from handlers.chat.engine import ModelFacts
from handlers.chat.engines.openai_server.client import connect
from shared.settings import Settings, SettingsError
from tests.doubles.openai_server import OpenAIServer
from tests.doubles.worker import ROOT, clean_environment
from tests.handlers.chat.engines.openai_server.conftest import configured, write


def test_it_waits_until_the_server_is_ready(server: OpenAIServer) -> None:
    server.health.extendleft([503, 503])
    engine = connect(configured(server))
    assert list(server.health) == [200]
    assert dict(engine.models) == {"qwen_instruct": ModelFacts(1000)}
    engine.close()


def test_a_server_that_is_not_ready_in_time_is_named_with_its_last_answer(server: OpenAIServer) -> None:
    server.health.append(503)
    server.health.popleft()
    with pytest.raises(SettingsError, match=r"not ready within 0.1 seconds .*health answers 503.*CHAT_ENGINE_START"):
        connect(configured(server, chat_engine_start=0.1))


@pytest.mark.parametrize("url", ["http://example.com:8000", "http://10.0.0.1", "http://0.0.0.0:8000"])
def test_conversations_go_to_no_other_machine(url: str) -> None:
    with pytest.raises(SettingsError, match="does not lead to this machine"):
        connect(Settings(chat_engine_url=url))


def test_conversations_go_through_no_proxy_that_the_machine_has(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    engine = connect(configured(server))
    assert write(engine)[1].text == "Hello."
    engine.close()


def test_of_several_models_one_is_named(server: OpenAIServer) -> None:
    server.models = [{"id": "a", "max_model_len": 10}, {"id": "b", "max_model_len": 20}]
    for wrong in (None, "c"):
        with pytest.raises(SettingsError, match=r"CHAT_ENGINE_MODEL must be one of .*: a, b"):
            connect(configured(server, chat_engine_model=wrong))
    engine = connect(configured(server, chat_engine_model="b"))
    assert engine.models["qwen_instruct"].context_length == 20
    engine.close()


def test_a_server_that_lists_nothing_is_believed_to_have_what_is_configured(server: OpenAIServer) -> None:
    server.models = []
    with pytest.raises(SettingsError, match="CHAT_ENGINE_MODEL"):
        connect(configured(server))
    engine = connect(configured(server, chat_engine_model="a", chat_engine_context=9, chat_instruct_name="mine"))
    assert dict(engine.models) == {"mine": ModelFacts(9)}
    engine.close()


def test_a_server_that_does_not_say_how_much_it_holds_needs_to_be_told(server: OpenAIServer) -> None:
    server.models = [{"id": "a"}]
    with pytest.raises(SettingsError, match="CHAT_ENGINE_CONTEXT"):
        connect(configured(server))
    engine = connect(configured(server, chat_engine_context=77))
    assert engine.models["qwen_instruct"].context_length == 77
    engine.close()


def test_it_needs_no_torch() -> None:
    """So that the image of such a server may have a build of its own."""
    code = (
        "import sys, handlers.chat.handler, handlers.chat.recipe, handlers.chat.engines.openai_server.client;"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
