"""The chat worker: `python -m handlers.chat.handler`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from handlers.chat.openai.presentation import answer_without_job, present
from handlers.chat.request import ChatOperator, ChatRequest
from shared.handler import Handler
from shared.serverless import serve
from shared.settings import Settings
from shared.weights.catalogue import QWEN_BASE, QWEN_INSTRUCT
from shared.weights.resolve import find, resolve
from shared.weights.revision import revision_of

if TYPE_CHECKING:
    from handlers.chat.recipe import ChatRecipe


def load(settings: Settings) -> ChatRecipe:
    """Loads the instruct model, and the base model where its weights are there; or finds the engine beside this process."""
    if settings.chat_engine_url is not None:
        return _load_server(settings)
    folders = {QWEN_INSTRUCT.name: resolve(QWEN_INSTRUCT, settings), QWEN_BASE.name: find(QWEN_BASE, settings)}
    # Imported after that, so that a worker without weights says so before it has imported torch.
    from handlers.chat.engines.transformers.chat_format import Source
    from handlers.chat.engines.transformers.engine import BatchingEngine
    from handlers.chat.engines.transformers.load import load_chat
    from handlers.chat.engines.transformers.memory import choose_residency
    from handlers.chat.recipe import ChatRecipe, ChatSettings
    from shared.models.device import choose_device, choose_dtype

    device = choose_device(settings.device)
    read = partial(load_chat, device=device, dtype=choose_dtype(device, "chat"))
    found = {name: folder for name, folder in folders.items() if folder is not None}
    called = {QWEN_INSTRUCT.name: settings.chat_instruct_name, QWEN_BASE.name: settings.chat_base_name}
    sources = [
        Source(called[name], partial(read, folder, name=name), transcript=name == QWEN_BASE.name, revision=revision_of(folder))
        for name, folder in found.items()
    ]
    engine = BatchingEngine(
        sources,
        resident=choose_residency(settings.chat_resident, found.values(), device),
        budget=int(settings.chat_cache_gb * 2**30) if settings.chat_cache_gb is not None else None,
    )
    return ChatRecipe(engine, ChatSettings(settings.sfw_words, settings.chat_streaming))


def _load_server(settings: Settings) -> ChatRecipe:
    """Without torch, which the image of such a server may have in a build of its own, or not at all."""
    from handlers.chat.engines.openai_server.client import connect
    from handlers.chat.recipe import ChatRecipe, ChatSettings

    return ChatRecipe(connect(settings), ChatSettings(settings.sfw_words, settings.chat_streaming))


def read_chat_operator(settings: Settings) -> ChatOperator:
    """Reads the operator's decisions about chat."""
    names = (settings.chat_instruct_name, settings.chat_base_name)
    return ChatOperator(frozenset(settings.callback_allowed_hosts), settings.chat_streaming, names)


HANDLER = Handler(
    "chat",
    ChatRequest,
    load,
    libraries=(
        "handlers.chat.recipe",
        "handlers.chat.engines.transformers.engine",
        "llguidance",
        "handlers.chat.engines.transformers.load",
    ),
    weights=(QWEN_INSTRUCT,),
    calls_back=False,
    operator=read_chat_operator,
    streams=lambda settings: settings.chat_streaming,
    present=present,
    answer_without_job=answer_without_job,
    together=lambda recipe: recipe.engine.concurrency,
    beside=lambda settings: settings.chat_engine_url is not None,
)

if __name__ == "__main__":
    serve(HANDLER)
