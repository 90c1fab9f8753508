"""Starts vLLM for the chat models: `CHAT_ENGINE=vllm`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handlers.chat.engine import ModelInfo
from handlers.chat.engines.openai_server.connection import create_client
from handlers.chat.engines.openai_server.engine import OpenAIServerEngine
from handlers.chat.engines.openai_server.health import Probing
from handlers.chat.engines.openai_server.messages_model import json_object
from handlers.chat.engines.vllm.arguments import Share, environment, server_command, shares
from handlers.chat.engines.vllm.device import describe_gpu
from handlers.chat.engines.vllm.server import VllmServer
from handlers.chat.engines.vllm.tokens_model import TokensModel, TokensSpec, eos_token_ids
from handlers.chat.revision import revision_of
from shared.models.tokenizers import load_tokenizer
from shared.settings import Settings, SettingsError
from shared.weights.catalogue import QWEN_BASE, QWEN_INSTRUCT
from shared.weights.errors import weights_error
from shared.weights.folders import weight_files

# vLLM answers 503 once its engine has died, and never recovers.
PROBING = Probing(interval=1.0, error_is_final=True)


def start(settings: Settings, folders: Mapping[str, Path], probing: Probing = PROBING) -> OpenAIServerEngine:
    """Starts a server for each model, one after the other: each measures the GPU's free memory.

    Args:
        settings: The operator's settings.
        folders: The folders of the models, by their names in the catalogue.
        probing: How the servers are watched.

    Raises:
        SettingsError: A server cannot be started.
        WeightsError: A tokenizer is damaged.
    """
    sizes = {name: sum(path.stat().st_size for path in weight_files(folder)) for name, folder in folders.items()}
    divided = shares(settings, sizes)
    served_as = {QWEN_INSTRUCT.name: settings.chat_instruct_name, QWEN_BASE.name: settings.chat_base_name}
    with contextlib.ExitStack() as stack:
        models: dict[str, TokensModel] = {}
        for name, folder in folders.items():
            own = served_as[name]
            models[own] = _start_model(settings, own, folder, divided[name], probing, transcript=name == QWEN_BASE.name)
            stack.callback(models[own].close)
        engine = OpenAIServerEngine(models, settings.chat_engine_concurrency, describe_gpu())
        stack.pop_all()
    return engine


def _start_model(settings: Settings, name: str, folder: Path, share: Share, probing: Probing, *, transcript: bool) -> TokensModel:
    tokenizer = _load_tokenizer(folder, name)
    server = VllmServer(name, lambda port: server_command(settings, folder, name, port, share), environment())
    with contextlib.ExitStack() as stack:
        stack.callback(server.close)
        server.wait_until_ready(settings.chat_engine_start)
        info = ModelInfo(_context_length(server), revision_of(folder))
        spec = TokensSpec(name, tokenizer, info, eos_token_ids(folder, tokenizer), transcript)
        model = TokensModel(spec, server, settings.chat_engine_concurrency, probing)
        stack.pop_all()
    return model


def _load_tokenizer(folder: Path, name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        vocabulary_size = int(json.loads((folder / "config.json").read_bytes())["vocab_size"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise weights_error(name, error) from error
    return load_tokenizer(AutoTokenizer, folder, name=f"{name} tokenizer", vocabulary_size=vocabulary_size, required_tokens=("eos",))


def _context_length(server: VllmServer) -> int:
    with create_client(server.url) as client:
        models = json_object(client.get("/v1/models")).get("data") or [{}]
    length = models[0].get("max_model_len")
    if not isinstance(length, int):
        raise SettingsError("vLLM does not report its context window. Install a version that this worker is tested with.")
    return length
