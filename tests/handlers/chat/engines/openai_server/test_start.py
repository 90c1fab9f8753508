"""Connecting to an inference server at start-up: readiness, model discovery, configuration errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from handlers.chat.engine import ModelInfo
from handlers.chat.engines.openai_server.connect import connect
from shared.settings import Settings, SettingsError
from tests.doubles.openai_server import OpenAIServer
from tests.doubles.processes import ROOT, clean_environment
from tests.handlers.chat.engines.openai_server.conftest import complete, settings_for


def test_connect_waits_until_the_server_is_ready(server: OpenAIServer) -> None:
    server.health.extendleft([503, 503])
    engine = connect(settings_for(server))
    assert list(server.health) == [200]
    assert dict(engine.models) == {"qwen_instruct": ModelInfo(1000)}
    engine.close()


def test_a_start_up_timeout_reports_the_last_health_status(server: OpenAIServer) -> None:
    server.health.append(503)
    server.health.popleft()
    with pytest.raises(SettingsError, match=r"not ready within 2 seconds .*health returned 503.*CHAT_ENGINE_START"):
        connect(settings_for(server, chat_engine_start=2.0))


@pytest.mark.parametrize("url", ["http://example.com:8000", "http://10.0.0.1", "http://0.0.0.0:8000"])
def test_a_server_on_another_machine_is_rejected(url: str) -> None:
    with pytest.raises(SettingsError, match="must point to this machine"):
        connect(Settings(chat_engine_url=url))


def test_proxy_environment_variables_are_ignored(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    engine = connect(settings_for(server))
    assert complete(engine)[1].text == "Hello."
    engine.close()


def test_one_of_several_models_must_be_configured(server: OpenAIServer) -> None:
    server.models = [{"id": "a", "max_model_len": 10}, {"id": "b", "max_model_len": 20}]
    for model in (None, "c"):
        with pytest.raises(SettingsError, match=r"CHAT_ENGINE_MODEL must be one of .*: a, b"):
            connect(settings_for(server, chat_engine_model=model))
    engine = connect(settings_for(server, chat_engine_model="b"))
    assert engine.models["qwen_instruct"].context_length == 20
    engine.close()


def test_a_server_that_lists_no_models_is_assumed_to_serve_the_configured_one(server: OpenAIServer) -> None:
    server.models = []
    with pytest.raises(SettingsError, match="CHAT_ENGINE_MODEL"):
        connect(settings_for(server))
    engine = connect(settings_for(server, chat_engine_model="a", chat_engine_context=9, chat_instruct_name="mine"))
    assert dict(engine.models) == {"mine": ModelInfo(9)}
    engine.close()


def test_a_context_window_that_the_server_does_not_report_must_be_configured(server: OpenAIServer) -> None:
    server.models = [{"id": "a"}]
    with pytest.raises(SettingsError, match="CHAT_ENGINE_CONTEXT"):
        connect(settings_for(server))
    engine = connect(settings_for(server, chat_engine_context=77))
    assert engine.models["qwen_instruct"].context_length == 77
    engine.close()


def test_the_client_imports_no_torch() -> None:
    """An image with an inference server may have a build of torch of its own, or none."""
    code = (
        "import sys, handlers.chat.handler, handlers.chat.recipe, handlers.chat.engines.openai_server.connect;"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
