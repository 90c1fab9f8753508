"""Messages of library errors may contain secrets: the caller and the log get only the type of an error, at every step of a job."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import av
import httpx
import jinja2
import jinja2.sandbox
import pydantic
import pytest
import runpod.error
import standardwebhooks
import structlog
import torch
from diffusers import UNet2DConditionModel
from multidict import CIMultiDict, CIMultiDictProxy
from PIL import Image, ImageColor
from pydantic_settings import BaseSettings
from safetensors import safe_open
from storage3.exceptions import StorageApiError
from transformers import AutoTokenizer
from yarl import URL

from handlers.chat.openai.presentation import present
from handlers.sdxl.request import SdxlRequest
from shared.contract.callback import to_json
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Completed, Failed, run_job
from shared.jobs.recipe import JobRun, Output, VideoOutput
from shared.telemetry import configure_logging
from tests.shared.jobs.conftest import MakeWorker, ObservedDisk, ScriptedRecipe, image_output, job, run

CANARY = "canary-of-a-secret"
SIGNED = f"https://host.example/a.png?token={CANARY}"


def _error_status() -> None:
    httpx.Response(403, request=httpx.Request("GET", SIGNED)).raise_for_status()


def _invalid_header() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        httpx.get(url, headers={"Authorization": f"Bearer {CANARY}\n"}, trust_env=False)


def _unencodable_header() -> None:
    httpx.Request("GET", "http://127.0.0.1/", headers={"Authorization": f"{CANARY}-ключ"})


def _response_error_with_headers() -> NoReturn:
    headers = CIMultiDictProxy(CIMultiDict({"Authorization": CANARY}))
    raise aiohttp.ClientResponseError(aiohttp.RequestInfo(URL(SIGNED), "POST", headers, URL(SIGNED)), (), status=401, message=CANARY)


def _invalid_settings() -> None:
    class Broken(BaseSettings):
        keys: list[str] = []

    Broken.model_validate({"keys": CANARY})


def _undefined_template_variable() -> None:
    jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True).from_string("{{ " + CANARY.replace("-", "_") + " }}").render()


def _chained() -> None:
    try:
        _error_status()
    except httpx.HTTPStatusError as error:
        error.add_note(CANARY)
        raise KeyError(CANARY) from error


def _grouped() -> NoReturn:
    raise ExceptionGroup(CANARY, [ValueError(CANARY), OSError(2, CANARY, CANARY)])


def _raise(error: Exception) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail


FAILURES: dict[str, Callable[[], object]] = {
    "httpx: a status": _error_status,
    "httpx: a header": _invalid_header,
    "httpx: a URL": lambda: httpx.get(f"{CANARY}://host"),
    "httpx: no URL": lambda: httpx.URL(f"http://host:{CANARY}/"),
    "a header that is not ASCII": _unencodable_header,
    "storage3": _raise(StorageApiError(CANARY, CANARY, 403)),
    "aiohttp": _response_error_with_headers,
    "pydantic": lambda: SdxlRequest.model_validate({"type": [CANARY], "prompt": {CANARY: CANARY}, CANARY: 1}),
    "pydantic: strict": lambda: pydantic.TypeAdapter(int).validate_python(CANARY),
    "pydantic-settings": _invalid_settings,
    "Pillow: a file": lambda: Image.open(f"/nowhere/{CANARY}.png"),
    "Pillow: a color": lambda: ImageColor.getcolor(CANARY, "RGB"),
    "PyAV: a file": lambda: av.open(f"/nowhere/{CANARY}.mp4"),
    "PyAV: an encoder": lambda: av.CodecContext.create(CANARY, "w"),
    "safetensors": lambda: safe_open(f"/nowhere/{CANARY}.safetensors", "pt"),
    "transformers": lambda: AutoTokenizer.from_pretrained(f"/nowhere/{CANARY}", local_files_only=True),
    "diffusers": lambda: UNet2DConditionModel.load_config(f"/nowhere/{CANARY}", local_files_only=True),
    "torch": lambda: torch.device(CANARY),
    "torch: memory": _raise(torch.OutOfMemoryError(f"CUDA out of memory. {CANARY}")),
    "torch: the device": _raise(torch.AcceleratorError(f"CUDA error: {CANARY}")),
    "standardwebhooks": _raise(standardwebhooks.WebhookVerificationError(CANARY)),
    "runpod": _raise(runpod.error.QueryError(CANARY, CANARY)),
    "json": lambda: json.loads('{"' + CANARY),
    "jinja2: syntax": lambda: jinja2.Environment(autoescape=True).from_string("{% " + CANARY + " %}"),
    "jinja2: a name": _undefined_template_variable,
    "a file's name": lambda: Path(f"/nowhere/{CANARY}").read_text(),
    "a command": lambda: subprocess.run(["false", CANARY], check=True),
    "text that is not UTF-8": lambda: f"{CANARY}\ud800".encode(),
    "memory": _raise(MemoryError(CANARY)),
    "chained": _chained,
    "a group": _grouped,
}


@pytest.fixture(autouse=True)
def reset_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def _frames(fail: Callable[[], object]) -> Iterator[Any]:
    yield image_output().pixels
    fail()


def _worker_failing_at(step: str, fail: Callable[[], object], make_worker: MakeWorker, disk: ObservedDisk) -> Any:
    """A worker whose jobs fail at the given step."""

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        if step == "generate":
            fail()
        yield VideoOutput(_frames(fail), 8, 0) if step == "encode" else image_output()

    worker = make_worker(generate)
    recipe = worker.recipe
    assert isinstance(recipe, ScriptedRecipe)
    if step in ("upload", "store the payload"):

        def before_put(key: str) -> None:
            if key.endswith("json") == (step == "store the payload"):
                fail()

        disk.before_put = before_put
    overridden = {"validate": "check", "summarize": "summarize"}.get(step)
    if overridden is not None:
        setattr(recipe, overridden, lambda *_: fail())
    return replace(worker, recipe=recipe, gpu=GpuThread())  # not shared: some of the errors mark it as lost


@pytest.mark.parametrize("name", FAILURES)
def test_library_error_contains_the_secret(name: str) -> None:
    with pytest.raises(Exception) as failed:  # noqa: PT011 - any type
        FAILURES[name]()
    error = failed.value
    texts = [repr(error), str(error), repr(error.args), repr(getattr(error, "__dict__", {})), str(error.__cause__)]
    texts += [repr(getattr(error, attribute, "")) for attribute in ("object", "doc", "filename", "request_info", "source")]
    assert any(CANARY in text or CANARY.replace("-", "_") in text for text in texts)


@pytest.mark.parametrize("step", ["validate", "generate", "encode", "upload", "summarize", "store the payload"])
def test_no_error_text_reaches_the_caller_or_the_log(
    step: str, make_worker: MakeWorker, disk: ObservedDisk, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO")
    outcomes = set()
    for name, fail in FAILURES.items():
        failing = _worker_failing_at(step, fail, make_worker, disk)
        outcome = asyncio.run(run_job(job(), failing, run()))
        failing.gpu.mark_lost()
        outcomes.add(type(outcome))
        returned = to_json(outcome.payload).decode() + json.dumps(present("job", None).result(outcome))  # type: ignore[arg-type]
        printed = "".join(capfd.readouterr())
        for text in (returned, printed, repr(outcome.payload)):
            assert CANARY not in text, name
            assert CANARY.replace("-", "_") not in text, name
            assert "Traceback" not in text, name
    assert outcomes == ({Completed} if step == "store the payload" else {Failed})
