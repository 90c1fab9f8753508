"""The chat worker: `python -m handlers.chat.handler`."""

from __future__ import annotations

from shared.contract.chat import ChatRequest
from shared.jobs.recipe import Recipe
from shared.serverless import Handler, serve
from shared.settings import Settings
from shared.weights.catalogue import QWEN_BASE, QWEN_INSTRUCT
from shared.weights.resolve import find, resolve


def load(settings: Settings) -> Recipe[ChatRequest]:
    """Loads the instruct model, and the base model where its weights are there."""
    folders = {QWEN_INSTRUCT.name: resolve(QWEN_INSTRUCT, settings), QWEN_BASE.name: find(QWEN_BASE, settings)}
    # Imported after that, so that a worker without weights says so before it has imported torch.
    from handlers.chat.generate import ChatRecipe, ChatSettings
    from handlers.chat.local_engine import LocalEngine
    from shared.models.device import choose_device, choose_dtype
    from shared.models.language import load_chat

    device = choose_device(settings.device)
    dtype = choose_dtype(device, "chat")
    models = {name: load_chat(folder, device, dtype, name=name) for name, folder in folders.items() if folder is not None}
    return ChatRecipe(LocalEngine(models), ChatSettings(settings.sfw_words, settings.chat_streaming))


HANDLER = Handler(
    "chat",
    ChatRequest,
    load,
    libraries=("handlers.chat.generate", "handlers.chat.local_engine", "shared.models.language"),
    weights=(QWEN_INSTRUCT,),
    calls_back=False,
    streams=True,
)

if __name__ == "__main__":
    serve(HANDLER)
