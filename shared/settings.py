"""The only reader of the environment: typed, frozen, secrets masked.

`docs/environment.md` is made from the descriptions of the fields.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr
from pydantic import ValidationError as PydanticError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_VOLUME = Path("/runpod-volume")


class SettingsError(Exception):
    """The worker cannot start as it is configured. The message names everything that is missing or wrong, and never a value."""


def _split_hosts(value: object) -> object:
    return tuple(host.strip().lower() for host in value.split(",") if host.strip()) if isinstance(value, str) else value


def _split_words(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _strip_slash(value: object) -> object:
    return value.rstrip("/") if isinstance(value, str) else value


Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_hosts)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_words)]
Url = Annotated[str, BeforeValidator(_strip_slash), Field(pattern=r"^https?://[^\s/]+")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,127}$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """What the operator decides. Every field is an environment variable; an empty variable counts as unset.

    Keys are masked wherever they are shown, and URLs are not shown at all, because they may hold a token or a password.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    # Where results go
    supabase_url: Url | None = Field(None, repr=False, description="The Supabase project. Without it results go to `OUTPUT_DIR`.")
    supabase_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SERVICE_KEY"),
        description="The project's service key.",
    )
    storage_bucket: str = Field("workspace-temp", description="The bucket that results are stored in.")
    output_dir: Path = Field(Path("out"), description="The folder for results when there is no `SUPABASE_URL`.")
    upload_deadline: Seconds = Field(90.0, description="Seconds for one upload with all its retries.")
    store_callback: bool = Field(False, description="Store the payload beside the assets as `callback.json`; local storage always does.")
    outbox_dir: Path | None = Field(
        None, description="The folder where results wait that cannot be delivered; by default `/runpod-volume/outbox`, else `outbox`."
    )
    outbox_max_bytes: int = Field(4 * 2**30, gt=0, description="Bytes that waiting results may take. What does not fit is not kept.")
    outbox_max_age: Seconds = Field(7 * 86400.0, description="Seconds after which a waiting result is given up.")

    # Callbacks
    job_callback_secret: SecretStr | None = Field(None, description="The key of both webhook signatures.")
    job_callback_url: Url | None = Field(
        None, repr=False, description="Where callbacks go; by default `{SUPABASE_URL}/functions/v1/job-callback`."
    )
    callback_allowed_hosts: Hosts = Field((), description="Hosts that a request's own `callback_url` may name, separated by commas.")
    callback_deadline: Seconds = Field(75.0, description="Seconds for one callback with all its retries.")
    callback_processing: bool = Field(False, description="Also send one `processing` callback when a job starts.")

    # References
    reference_allowed_hosts: Hosts = Field((), description="Hosts that references may come from, by commas; empty: any public host.")
    reference_deadline: Seconds = Field(20.0, description="Seconds for one reference, from the name look-up to the last byte.")
    reference_max_bytes: int = Field(20 * 1024 * 1024, gt=0, description="Bytes that one reference may have.")
    sdxl_reference_method: Literal["adapter", "img2img"] = Field(
        "adapter", description="`img2img` serves every type of reference by image→image, for workers without adapter weights."
    )
    sdxl_safety_check: bool = Field(
        False, description="Look at every picture of SDXL's and flag what may not be safe for work; needs `MODELS_DIR/safety_checker`."
    )

    # Models
    models_dir: Path = Field(Path("models"), description="The folder that is looked through first for weights.")
    sdxl_model: Path | None = Field(None, description="An explicit path to SDXL: a diffusers folder or one `.safetensors` file.")
    wan_model: Path | None = Field(None, description="An explicit path to WAN: a diffusers folder.")
    qwen_instruct_model: Path | None = Field(None, description="An explicit path to the instruct model: a transformers folder.")
    qwen_base_model: Path | None = Field(None, description="An explicit path to the base model: a transformers folder.")
    baked_models_dir: Path = Field(Path("/opt/models"), description="Where the image keeps weights that were baked into it.")
    huggingface_cache: Path = Field(Path("/runpod-volume/huggingface-cache/hub"), description="RunPod's cached-model folder.")
    volume_models_dir: Path = Field(Path("/runpod-volume/models"), description="Weights on the network volume.")
    allow_downloads: bool = Field(False, description="Download weights that are found nowhere. Off, a worker never asks a hub.")
    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="Where models run; `auto` takes a GPU if there is one.")
    device_memory_gb: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="GB of the GPU's memory that WAN may use; unset: all. On a CPU: what a GPU would have."
    )

    # Limits and defaults
    job_timeout: Seconds = Field(
        570.0, description="Seconds that a job may take before it fails with `JOB_TIMEOUT`. Less than RunPod's own limit, which is 600."
    )
    sdxl_job_timeout: Seconds | None = Field(None, description="The same for SDXL alone.")
    wan_job_timeout: Seconds | None = Field(None, description="The same for WAN alone.")
    chat_job_timeout: Seconds | None = Field(None, description="The same for chat alone.")
    job_grace: Seconds = Field(
        20.0, description="Seconds that a step may take beyond that; then the job is answered without it, and the worker is replaced."
    )
    job_concurrency: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Jobs in hand at once. Pictures and clips: 1 by default; above it one computes while the others fetch and upload. "
        "Chat: at most so many; by default as many as there is memory for.",
    )
    progress_interval: float = Field(1.0, ge=0.5, description="Least seconds between two progress updates.")
    wan_max_area: int = Field(399_360, gt=0, description="The largest width × height of a clip, in pixels.")
    wan_default_fps: int = Field(24, ge=8, le=24, description="Frames per second of a clip that does not ask for a rate.")
    video_encoder: Literal["libx264", "h264_nvenc"] = Field(
        "libx264", description="What writes clips: `h264_nvenc` is the encoder of an NVIDIA GPU that has one."
    )
    video_quality: int = Field(18, ge=1, le=51, description="How well clips are written: 1 is the best, 51 the smallest.")
    chat_instruct_name: ModelName = Field(
        "qwen_instruct", description="What the instruct model is called. `QWEN_INSTRUCT_MODEL` may name the folder of any causal model."
    )
    chat_base_name: ModelName = Field("qwen_base", description="What the base model is called, likewise with `QWEN_BASE_MODEL`.")
    chat_resident: Literal["auto", "both", "one"] = Field(
        "auto",
        description="Chat models in memory: `both`, or the `one` that is needed; `auto` keeps both where 4 GiB are left beside them.",
    )
    chat_cache_gb: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="GiB for what chat models remember of conversations; by default what they leave."
    )
    chat_engine_url: Url | None = Field(
        None,
        repr=False,
        description="A server on this machine that speaks OpenAI's protocol and writes the chats: `http://127.0.0.1:8000`.",
    )
    chat_engine_model: str | None = Field(None, description="What that server calls the model; not needed where it serves only one.")
    chat_engine_context: int | None = Field(None, gt=0, description="Tokens that its model holds, where the server does not say it.")
    chat_engine_extensions: bool = Field(
        True, description="Whether it knows `top_k`, `min_p` and `repetition_penalty`, as vLLM does; off for a server that refuses them."
    )
    chat_engine_concurrency: int = Field(32, ge=1, le=256, description="Answers that it is asked for at once.")
    chat_engine_start: Seconds = Field(600.0, description="Seconds that it may take to become ready.")
    chat_streaming: bool = Field(False, description="Chat yields pieces of text while it writes them.")
    sfw_words: Words = Field((), description="Words and phrases that `sfw_mode` masks, separated by commas.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least level that is logged. At `DEBUG` errors are logged in full, and may hold what callers wrote."
    )

    # What RunPod sets
    runpod_pod_id: str = Field("local", description="Set by RunPod: names the worker in payloads.")

    @property
    def callback_url(self) -> str | None:
        """Where callbacks go, if anywhere: `JOB_CALLBACK_URL`, else the edge function of the Supabase project."""
        if self.job_callback_url is not None:
            return self.job_callback_url
        return f"{self.supabase_url}/functions/v1/job-callback" if self.supabase_url is not None else None

    @property
    def outbox(self) -> Path:
        """Where results wait: on the network volume if there is one, because a worker's own disk ends with the worker."""
        return self.outbox_dir or (_VOLUME if _VOLUME.is_dir() else Path()) / "outbox"

    def timeout_of(self, handler: str) -> float:
        """Seconds that a job of a handler may take."""
        own: float | None = getattr(self, f"{handler}_job_timeout", None)
        return own if own is not None else self.job_timeout

    @property
    def device_memory(self) -> int | None:
        """`DEVICE_MEMORY_GB` in bytes."""
        return None if self.device_memory_gb is None else int(self.device_memory_gb * 1e9)

    @property
    def on_runpod(self) -> bool:
        """Whether jobs come from RunPod's queue."""
        return on_runpod()


def on_runpod() -> bool:
    """Whether RunPod gave this process a queue to take jobs from. Without one a worker runs a single local job."""
    return "RUNPOD_WEBHOOK_GET_JOB" in os.environ


def prepare_environment() -> None:
    """Sets what libraries read while they are imported. To be called before runpod, diffusers or transformers is imported."""
    # The SDK's default is DEBUG, and at DEBUG it prints every handler's output.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    # Without it diffusers asks a hub for configurations even where it was told to use local files only.
    downloads = os.environ.get("ALLOW_DOWNLOADS", "").lower() in {"1", "true", "t", "yes", "y", "on"}
    os.environ["HF_HUB_OFFLINE"] = "0" if downloads else "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def allow_hub() -> None:
    """Lets this process ask a model hub. To be called before huggingface_hub is imported, by commands that exist to download."""
    os.environ["HF_HUB_OFFLINE"] = "0"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def variables_of(name: str) -> tuple[str, ...]:
    """The environment variables that a field is read from, by the field's name."""
    alias = Settings.model_fields[name].validation_alias
    return tuple(str(each) for each in alias.choices) if isinstance(alias, AliasChoices) else (name.upper(),)


def unconfigured(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment configures no worker: for workers that are started to show or to test something."""
    ours = {variable for name in Settings.model_fields for variable in variables_of(name)}
    return {name: value for name, value in environment.items() if name.upper() not in ours and not name.startswith("RUNPOD")}


def load_settings() -> Settings:
    """Reads the environment once.

    Raises:
        SettingsError: With one message that names every variable that is missing or malformed.
    """
    settings = read_settings()
    check_complete(settings)
    return settings


def read_settings() -> Settings:
    """Reads the environment, which may still be incomplete.

    Raises:
        SettingsError: It names every variable that is malformed.
    """
    try:
        return Settings()
    except PydanticError as error:
        wrong = [f"{_variable(problem['loc'])}: {problem['msg']}" for problem in error.errors(include_input=False)]
        raise SettingsError("The environment is not valid. " + "; ".join(wrong)) from None


def check_complete(settings: Settings) -> None:
    """Makes sure that what was begun was finished: a URL has its key, a callback its secret.

    Raises:
        SettingsError: It names every variable that is missing.
    """
    if missing := _missing(settings):
        raise SettingsError("The configuration is incomplete. Please set " + " and ".join(missing) + ".")


def _variable(loc: tuple[int | str, ...]) -> str:
    return str(loc[0]).upper()


def _missing(settings: Settings) -> list[str]:
    missing = []
    if settings.supabase_url is not None and settings.supabase_key is None:
        missing.append("SUPABASE_SERVICE_ROLE_KEY (needed with SUPABASE_URL)")
    if settings.supabase_key is not None and settings.supabase_url is None:
        missing.append("SUPABASE_URL (needed with SUPABASE_SERVICE_ROLE_KEY)")
    if settings.callback_url is not None and settings.job_callback_secret is None:
        missing.append("JOB_CALLBACK_SECRET (callbacks are signed with it)")
    if settings.callback_allowed_hosts and settings.job_callback_secret is None and settings.callback_url is None:
        missing.append("JOB_CALLBACK_SECRET (CALLBACK_ALLOWED_HOSTS allows callbacks, and they are signed with it)")
    if settings.chat_instruct_name == settings.chat_base_name:
        missing.append("two different names as CHAT_INSTRUCT_NAME and CHAT_BASE_NAME")
    return missing
