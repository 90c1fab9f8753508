"""The environment of child processes, libraries' own included: without secrets, and without the settings of a worker."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from shared.settings import Settings, variable_names

# What libraries of GPUs and of vLLM read, and what every process needs. Nothing of it is a secret.
_SERVER_VARIABLES = frozenset({"HOME", "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "TEMP", "TMP", "TMPDIR", "TZ", "USER"})
_SERVER_PREFIXES = (
    "CC", "CUDA_", "CXX", "FLASHINFER_", "GLOO_", "LC_", "MALLOC_", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "PYTORCH_", "TORCH", "TRITON_",
    "VLLM_", "XDG_",
)  # fmt: skip
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")


def server_environment() -> dict[str, str]:
    """Returns this process's environment without its secrets, for an inference server that it starts."""
    return {
        name: value
        for name, value in os.environ.items()
        if (name in _SERVER_VARIABLES or name.startswith(_SERVER_PREFIXES)) and not _SECRET.search(name)
    }


def forget_secrets() -> None:
    """Removes keys, secrets and URLs from the environment once they are read: child processes inherit it, also those of libraries."""
    fields = [name for name, field in Settings.model_fields.items() if not field.repr or "SecretStr" in str(field.annotation)]
    secret = {variable for name in fields for variable in variable_names(name)}
    for name in [name for name in os.environ if name.upper() in secret]:
        del os.environ[name]


def without_worker_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment without worker settings and RunPod variables, for workers started by demos and tests."""
    ours = {variable for name in Settings.model_fields for variable in variable_names(name)}
    return {name: value for name, value in environment.items() if name.upper() not in ours and not name.startswith("RUNPOD")}
