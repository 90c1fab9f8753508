"""The settings, read from the environment by this module alone; `docs/environment.md` is generated from the field descriptions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, model_validator
from pydantic import ValidationError as PydanticError
from pydantic_settings import NoDecode

from shared.credentials import find_problems
from shared.device_settings import DeviceSettings
from shared.storage_settings import Seconds, StorageSettings, Url, missing_storage_variables
from shared.tracing_settings import TracingSettings

_VOLUME = Path("/runpod-volume")


class SettingsError(Exception):
    """The configuration is incomplete or invalid. The message lists every variable at fault, and never a value."""


def _split_words(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _split_hosts(value: object) -> object:
    return _split_words(value.lower() if isinstance(value, str) else value)


Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_hosts)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_words)]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,127}$")]


class Settings(DeviceSettings, TracingSettings, StorageSettings):
    """The operator's settings. Every field is an environment variable, stripped of white space; an empty variable counts as unset.

    Keys are masked in every representation, and URLs are omitted, because they may contain a token or a password.
    """

    # Delivery
    outbox_dir: Path | None = Field(
        None, description="Folder for results that could not be delivered; by default `/runpod-volume/outbox`, else `outbox`."
    )
    outbox_max_bytes: int = Field(4 * 2**30, gt=0, description="Maximum size of the outbox in bytes. Results that do not fit are dropped.")
    outbox_max_age: Seconds = Field(7 * 86400.0, description="Seconds after which an undelivered result expires.")

    # Callbacks
    job_callback_secret: SecretStr | None = Field(None, description="Secret of both webhook signatures, at least 16 bytes.")
    job_callback_secret_previous: SecretStr | None = Field(
        None, description="The secret before a rotation: outbox entries that were written under it are still delivered."
    )
    job_callback_url: Url | None = Field(
        None, repr=False, description="Target of callbacks; by default `{SUPABASE_URL}/functions/v1/job-callback`."
    )
    callback_allowed_hosts: Hosts = Field(
        (), description="Hosts allowed in a request's `callback_url`, comma-separated: `host` for port 443, or `host:port`."
    )
    callback_deadline: Seconds = Field(75.0, description="Seconds for one callback, including retries.")
    callback_processing: bool = Field(False, description="Also send a `processing` callback when a job starts.")

    # Reference images
    reference_allowed_hosts: Hosts = Field((), description="Hosts allowed in reference URLs, comma-separated; if empty, any public host.")
    reference_buckets: Words = Field(
        ("workspace-temp", "user-library", "reference_images"), description="Buckets that references are read from, comma-separated."
    )
    reference_deadline: Seconds = Field(20.0, description="Seconds for one reference, from name resolution to the last byte.")
    reference_max_bytes: int = Field(20 * 1024 * 1024, gt=0, description="Maximum size of one reference in bytes.")
    sdxl_reference_method: Literal["adapter", "img2img"] = Field(
        "adapter", description="`img2img` applies every type of reference by image-to-image, for workers without IP-Adapter weights."
    )
    sdxl_safety_check: bool = Field(
        False, description="Run the safety checker on every SDXL image and set `nsfw_flagged`; requires `MODELS_DIR/safety_checker`."
    )

    # Models
    models_dir: Path = Field(Path("models"), description="Folder that is searched first for weights.")
    sdxl_model: Path | None = Field(None, description="Explicit path of SDXL: a diffusers folder or a single `.safetensors` file.")
    wan_model: Path | None = Field(None, description="Explicit path of WAN: a diffusers folder.")
    sdxl_model_name: ModelName | None = Field(None, description="SDXL's name in payloads; by default that of its file or folder.")
    wan_model_name: ModelName | None = Field(None, description="WAN's name in payloads; by default that of its folder.")
    qwen_instruct_model: Path | None = Field(None, description="Explicit path of the instruct model: a transformers folder.")
    qwen_base_model: Path | None = Field(None, description="Explicit path of the base model: a transformers folder.")
    baked_models_dir: Path = Field(Path("/opt/models"), description="Folder of weights that are baked into the image.")
    huggingface_cache: Path = Field(Path("/runpod-volume/huggingface-cache/hub"), description="RunPod's model cache.")
    volume_models_dir: Path = Field(Path("/runpod-volume/models"), description="Folder of weights on the network volume.")
    allow_downloads: bool = Field(False, description="Download missing weights. If off, a worker never contacts a model hub.")

    # Limits and defaults
    job_timeout: Seconds | None = Field(
        None,
        description="Seconds before a job fails with `JOB_TIMEOUT`; by default 570 for SDXL and chat and 870 for WAN. "
        "Must be less than the endpoint's execution timeout.",
    )
    sdxl_job_timeout: Seconds | None = Field(None, description="Overrides `JOB_TIMEOUT` for SDXL.")
    wan_job_timeout: Seconds | None = Field(None, description="Overrides `JOB_TIMEOUT` for WAN.")
    chat_job_timeout: Seconds | None = Field(None, description="Overrides `JOB_TIMEOUT` for chat.")
    job_grace: Seconds = Field(
        20.0,
        description="Seconds that a step may exceed the timeout; then the job fails without waiting for it, and the worker is replaced.",
    )
    job_concurrency: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Jobs in flight. SDXL: 2 by default, so that one generates while the others fetch and upload; WAN: 1. "
        "Chat: the maximum; by default as many as fit in memory.",
    )
    progress_interval: float = Field(1.0, ge=0.5, description="Minimum seconds between two progress updates.")
    wan_max_area: int = Field(399_360, gt=0, description="Maximum width × height of a video, in pixels.")
    wan_default_fps: int = Field(24, ge=8, le=24, description="Default frames per second of a video.")
    video_encoder: Literal["libx264", "h264_nvenc"] = Field(
        "libx264", description="Video encoder: `h264_nvenc` is the hardware encoder of NVIDIA GPUs that have one."
    )
    video_quality: int = Field(18, ge=1, le=51, description="Quality of videos (CRF): 1 is best, 51 is smallest.")
    chat_instruct_name: ModelName = Field(
        "qwen_instruct", description="Name of the instruct model. `QWEN_INSTRUCT_MODEL` may be the folder of any causal language model."
    )
    chat_base_name: ModelName = Field("qwen_base", description="Name of the base model, likewise with `QWEN_BASE_MODEL`.")
    chat_resident: Literal["auto", "both", "one"] = Field(
        "auto",
        description="Chat models in memory: `both`, or only the `one` in use; `auto` keeps both if that leaves 4 GiB free.",
    )
    chat_cache_gb: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="GiB for the KV cache of chat models; by default the memory that the weights leave free.",
    )
    chat_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of chat models, of either engine; by default float32 on a CPU and bfloat16 on a GPU. Qwen2.5 exceeds the "
        "range of float16.",
    )
    chat_engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="Inference engine of chat: the built-in one on transformers, or `vllm`, which the worker runs as child processes.",
    )
    chat_vllm_python: Path = Field(Path("/opt/vllm/bin/python"), description="Python of the environment in which vLLM is installed.")
    chat_vllm_memory: float = Field(
        0.9, gt=0, le=1, description="Share of the GPU's memory for vLLM, divided between the chat models by the size of their weights."
    )
    chat_vllm_arguments: str = Field(
        "",
        repr=False,
        description="Further arguments of vLLM's server, such as `--dtype bfloat16`. Those that the worker relies on cannot be changed.",
    )
    chat_engine_url: Url | None = Field(
        None,
        repr=False,
        description="An inference server on this machine with OpenAI's API, used instead of the built-in engine: `http://127.0.0.1:8000`.",
    )
    chat_engine_model: str | None = Field(None, description="Name of the model on that server; optional if it serves only one.")
    chat_engine_context: int | None = Field(
        None,
        gt=0,
        description="Context window of that model in tokens, if the server does not report it; the context window of vLLM's models, "
        "by default as long as memory allows.",
    )
    chat_engine_extensions: bool = Field(
        True, description="Whether the server accepts `top_k`, `min_p` and `repetition_penalty`, as vLLM does."
    )
    chat_engine_concurrency: int = Field(32, ge=1, le=256, description="Maximum concurrent requests to each inference server.")
    chat_engine_start: Seconds = Field(600.0, description="Seconds that an inference server may take to become ready.")
    chat_streaming: bool = Field(
        False, description="Whether chat is a generator for RunPod: its final output is then the list of all that it yields."
    )
    sfw_words: Words = Field((), description="Words and phrases that `sfw_mode` masks, comma-separated.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Minimum level of log lines. At `DEBUG`, errors are logged in full and may contain prompts."
    )

    # Set by RunPod
    runpod_pod_id: str = Field("local", description="Set by RunPod: identifies the worker in payloads.")

    @model_validator(mode="before")
    @classmethod
    def _strip(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Strips white space, such as the line break at the end of a pasted key."""
        stripped = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
        return {name: value for name, value in stripped.items() if value != ""}

    @property
    def callback_url(self) -> str | None:
        """The configured target of callbacks: `JOB_CALLBACK_URL`, else the edge function of the Supabase project, else None."""
        if self.job_callback_url is not None:
            return self.job_callback_url
        return f"{self.supabase_url}/functions/v1/job-callback" if self.supabase_url is not None else None

    @property
    def outbox(self) -> Path:
        """The outbox's folder: on the network volume if there is one, because a worker's own disk is deleted with it."""
        return self.outbox_dir or (_VOLUME if _VOLUME.is_dir() else Path()) / "outbox"

    def job_timeout_for(self, handler: str) -> float:
        """Returns the job timeout of a handler, in seconds."""
        own: float | None = getattr(self, f"{handler}_job_timeout", None)
        return own or self.job_timeout or (870.0 if handler == "wan" else 570.0)

    @property
    def on_runpod(self) -> bool:
        """Whether jobs come from RunPod's queue."""
        return on_runpod()


def on_runpod() -> bool:
    """Whether RunPod provides a job queue. Without one, a worker runs a single local job."""
    return "RUNPOD_WEBHOOK_GET_JOB" in os.environ


def prepare_environment() -> None:
    """Sets variables that libraries read at import. Call before importing runpod, diffusers or transformers."""
    # The SDK's default is DEBUG, at which it prints the output of every job.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    # Without it, diffusers requests configurations from the hub even with `local_files_only`.
    downloads = os.environ.get("ALLOW_DOWNLOADS", "").lower() in {"1", "true", "t", "yes", "y", "on"}
    os.environ["HF_HUB_OFFLINE"] = "0" if downloads else "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if _VOLUME.is_dir():  # torch's cache of compiled code distinguishes its own versions and GPUs
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_VOLUME / "compiled"))


def enable_hub_access() -> None:
    """Enables access to model hubs, for download commands. Call before importing huggingface_hub."""
    os.environ["HF_HUB_OFFLINE"] = "0"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def variable_names(name: str) -> tuple[str, ...]:
    """Returns the environment variables of a field."""
    alias = Settings.model_fields[name].validation_alias
    return tuple(str(each) for each in alias.choices) if isinstance(alias, AliasChoices) else (name.upper(),)


def load_settings() -> Settings:
    """Reads and checks the environment.

    Raises:
        SettingsError: Lists every variable that is missing or malformed.
    """
    settings = read_settings()
    check_complete(settings)
    return settings


def read_settings() -> Settings:
    """Reads the environment without checking completeness.

    Raises:
        SettingsError: Lists every variable that is malformed.
    """
    try:
        return Settings()
    except PydanticError as error:
        invalid = [f"{_variable(problem['loc'])}: {problem['msg']}" for problem in error.errors(include_input=False)]
        raise SettingsError("The environment is not valid. " + "; ".join(invalid)) from None


def check_complete(settings: Settings) -> None:
    """Checks that settings that belong together are complete, a URL and its key, callbacks and their secret, and that each is usable.

    Raises:
        SettingsError: Lists every variable that is missing or unusable.
    """
    found = find_problems(settings)
    if missing := _missing(settings):
        found.insert(0, "The configuration is incomplete. Set " + " and ".join(missing) + ".")
    if found:
        raise SettingsError(" ".join(found))


def _variable(loc: tuple[int | str, ...]) -> str:
    return str(loc[0]).upper()


def _missing(settings: Settings) -> list[str]:
    missing = missing_storage_variables(settings)
    if settings.callback_url is not None and settings.job_callback_secret is None:
        missing.append("JOB_CALLBACK_SECRET (callbacks are signed with it)")
    if settings.callback_allowed_hosts and settings.job_callback_secret is None and settings.callback_url is None:
        missing.append("JOB_CALLBACK_SECRET (CALLBACK_ALLOWED_HOSTS allows callbacks, and they are signed with it)")
    if settings.chat_engine == "vllm" and settings.chat_engine_url is not None:
        missing.append("only one of CHAT_ENGINE=vllm and CHAT_ENGINE_URL")
    if settings.chat_instruct_name == settings.chat_base_name:
        missing.append("two different names as CHAT_INSTRUCT_NAME and CHAT_BASE_NAME")
    return missing
