"""The chat worker: `python -m handlers.chat.handler`."""

from __future__ import annotations

if __name__ == "__main__" and not __package__:  # run as a file, from which the other packages are not found
    raise SystemExit("Start the worker as a module, in the root of the repository: .venv/bin/python -m handlers.chat.handler")

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.chat.openai.presentation import answer_without_job, present
from handlers.chat.request import ChatRequest
from handlers.chat.revision import revision_of
from handlers.chat.short_form import ChatOperator
from shared.handler import Handler
from shared.models.prefetch import all_weight_files, prefetched
from shared.serverless import serve
from shared.settings import Settings
from shared.weights.catalogue import QWEN_BASE, QWEN_INSTRUCT
from shared.weights.resolve import find_optional, resolve

if TYPE_CHECKING:
    from handlers.chat.recipe import ChatRecipe


def load(settings: Settings) -> ChatRecipe:
    """Creates the inference engine: a client of an external server, or one that runs the instruct model and any base model."""
    if settings.chat_engine_url is not None:
        return _connect_to_server(settings)
    folders = {QWEN_INSTRUCT.name: resolve(QWEN_INSTRUCT, settings), QWEN_BASE.name: find_optional(QWEN_BASE, settings)}
    installed = {name: folder for name, folder in folders.items() if folder is not None}
    if settings.chat_engine == "vllm":
        return _start_vllm(settings, installed)
    with prefetched(all_weight_files(installed[QWEN_INSTRUCT.name], half=False)):
        # Imported only now, so that a worker without weights reports it without importing torch.
        from handlers.chat.engines.transformers.chat_format import ModelSpec
        from handlers.chat.engines.transformers.engine import TransformersEngine
        from handlers.chat.engines.transformers.load import dtype_of, load_chat
        from handlers.chat.engines.transformers.memory import choose_residency
        from handlers.chat.recipe import ChatRecipe, ChatSettings
        from shared.models.device import choose_device

        device = choose_device(settings.device)
        load_model = partial(load_chat, device=device, dtype=dtype_of(settings.chat_dtype, device))
        served_as = {QWEN_INSTRUCT.name: settings.chat_instruct_name, QWEN_BASE.name: settings.chat_base_name}
        loads = {name: partial(load_model, folder, name=name) for name, folder in installed.items()}
        specs = [
            ModelSpec(served_as[name], loads[name], transcript=name == QWEN_BASE.name, revision=revision_of(folder))
            for name, folder in installed.items()
        ]
        engine = TransformersEngine(
            specs,
            resident=choose_residency(settings.chat_resident, installed.values(), device),
            budget=int(settings.chat_cache_gb * 2**30) if settings.chat_cache_gb is not None else None,
        )
    return ChatRecipe(engine, ChatSettings(settings.sfw_words, settings.chat_streaming))


def _connect_to_server(settings: Settings) -> ChatRecipe:
    """Imports no torch: an image with such a server may have a build of its own, or none."""
    from handlers.chat.engines.openai_server.connect import connect
    from handlers.chat.recipe import ChatRecipe, ChatSettings

    return ChatRecipe(connect(settings), ChatSettings(settings.sfw_words, settings.chat_streaming))


def _start_vllm(settings: Settings, folders: Mapping[str, Path]) -> ChatRecipe:
    """Imports no torch: only vLLM's own environment has it."""
    from handlers.chat.engines.vllm.load import start
    from handlers.chat.recipe import ChatRecipe, ChatSettings

    return ChatRecipe(start(settings, folders), ChatSettings(settings.sfw_words, settings.chat_streaming))


def check_engine(settings: Settings) -> None:
    """Checks that the chosen engine is installed.

    Raises:
        SettingsError: vLLM is not, or its arguments are malformed.
    """
    if settings.chat_engine == "vllm":
        from handlers.chat.engines.vllm.arguments import operator_arguments
        from handlers.chat.engines.vllm.server import check_python

        operator_arguments(settings)
        check_python(settings.chat_vllm_python)


def libraries_of(settings: Settings) -> tuple[str, ...]:
    """Returns the modules that `load` imports."""
    if settings.chat_engine_url is not None:
        return ("handlers.chat.engines.openai_server.connect",)
    if settings.chat_engine == "vllm":
        return ("handlers.chat.engines.vllm.load", "transformers.models.auto.tokenization_auto")
    return ("handlers.chat.engines.transformers.engine", "handlers.chat.engines.transformers.load")


def chat_operator_settings(settings: Settings) -> ChatOperator:
    """Returns the settings that chat requests are validated against."""
    names = (settings.chat_instruct_name, settings.chat_base_name)
    return ChatOperator(frozenset(settings.callback_allowed_hosts), names)


HANDLER = Handler(
    "chat",
    ChatRequest,
    load,
    checks={"engine": check_engine},
    libraries=("handlers.chat.recipe", "llguidance"),
    libraries_of=libraries_of,
    weights=(QWEN_INSTRUCT,),
    stored_types=(),
    always_callback=False,
    operator=chat_operator_settings,
    streams=lambda settings: settings.chat_streaming,
    present=present,
    answer_without_job=answer_without_job,
    max_concurrency=lambda recipe: recipe.engine.max_concurrency,
    uses_external_engine=lambda settings: settings.chat_engine_url is not None,
    watch=lambda recipe, on_failure: recipe.engine.watch(on_failure),
)

if __name__ == "__main__":
    serve(HANDLER)
