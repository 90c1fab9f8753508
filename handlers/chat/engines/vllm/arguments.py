"""The command line and the environment of vLLM's server."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handlers.chat.prompts import BASE_MODEL_STOPS
from shared.child_environment import server_environment
from shared.settings import Settings, SettingsError

_MODULE = "vllm.entrypoints.openai.api_server"  # the `vllm` command of the CPU build does not start
_MAX_STOP_STRINGS = 8 + len(BASE_MODEL_STOPS)


@dataclass(frozen=True)
class Share:
    """What one server gets of the device.

    Attributes:
        memory: Its share of the GPU's memory, for weights and KV cache.
        cache: Bytes for the KV cache, in place of what the share leaves; None: what it leaves.
    """

    memory: float
    cache: int | None = None


def shares(settings: Settings, sizes: Mapping[str, int]) -> dict[str, Share]:
    """Divides the GPU's memory between the models, in proportion to the sizes of their weights in bytes."""
    total = sum(sizes.values())
    cache = None if settings.chat_cache_gb is None else int(settings.chat_cache_gb * 2**30 / len(sizes))
    return {name: Share(round(settings.chat_vllm_memory * size / total, 3), cache) for name, size in sizes.items()}


def server_command(settings: Settings, folder: Path, name: str, port: int, share: Share) -> Sequence[str]:
    """Returns the command that starts a server.

    Args:
        settings: The operator's settings.
        folder: The model's folder.
        name: The name that requests use for the model.
        port: The port on loopback.
        share: What it gets of the device.

    Raises:
        SettingsError: CHAT_VLLM_ARGUMENTS is malformed.
    """
    # Of repeated arguments the last counts. The operator's own come before those that the worker relies on.
    command = [str(settings.chat_vllm_python), "-m", _MODULE, "--dtype", settings.chat_dtype, *operator_arguments(settings)]
    command += ["--model", str(folder), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    # Nothing that comes with weights is executed, and no pickle is opened.
    command += ["--load-format", "safetensors", "--no-trust-remote-code"]
    command += ["--generation-config", "vllm", "--max-num-seqs", str(settings.chat_engine_concurrency)]
    command += ["--max-model-len", str(settings.chat_engine_context or "auto")]
    command += ["--gpu-memory-utilization", str(share.memory)]
    command += ["--kv-cache-memory-bytes", str(share.cache)] if share.cache is not None else []
    command += ["--structured-outputs-config", json.dumps({"backend": "guidance"})]
    command += ["--enable-prompt-tokens-details", "--disable-uvicorn-access-log", "--disable-log-stats"]
    # Prompts and completions.
    return [*command, "--no-enable-log-requests", "--no-enable-log-outputs"]


def operator_arguments(settings: Settings) -> list[str]:
    """Returns the operator's own arguments.

    Raises:
        SettingsError: A quotation mark is missing.
    """
    try:
        return shlex.split(settings.chat_vllm_arguments)
    except ValueError:
        raise SettingsError("CHAT_VLLM_ARGUMENTS must be arguments as a shell reads them. Close its quotation marks.") from None


def environment() -> dict[str, str]:
    """Returns the environment of a server: that of this process without its secrets, and what the worker relies on."""
    return server_environment() | {
        "VLLM_MAX_STOP_STRINGS": str(_MAX_STOP_STRINGS),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "LLGUIDANCE_LOG_LEVEL": "0",  # its messages quote schemas
        "NO_COLOR": "1",
        "VLLM_LOGGING_COLOR": "0",
        "PYTHONUNBUFFERED": "1",
    }
