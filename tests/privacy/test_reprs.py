"""`repr` and `str` of objects never show user content or secrets, so that no log line or message can leak them.

All classes of `shared` and `handlers` are discovered. Every field that can hold text gets a canary, which `repr` and `str` must not contain
unless the field is listed here as public. New classes and fields are therefore private by default.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

import handlers
import shared
from handlers.chat.request import ChatRequest
from handlers.sdxl.request import SdxlRequest
from shared.contract.references import Reference

# Public in every class: names, ids and kinds; texts written for callers or operators; objects whose repr shows no text.
PUBLIC = frozenset(
    {
        "code", "error_code", "error_type", "field", "fields", "finish_reason", "format", "id", "job_id", "job_type", "kind", "mime",
        "mime_type", "content_type", "model", "model_used", "name", "revision", "sha256", "type", "user_id", "webhook_id", "worker_id",
        "warnings", "timings", "noun", "extension", "path", "licence", "repo", "source", "reference_mode", "reference_method",
        "enhancement_source", "enhancement_type", "runpod_id", "worker_version", "device",
    }
)  # fmt: skip
# Public in one class, because the same name may hold private text elsewhere.
PUBLIC_IN: dict[str, set[str]] = {
    "CommandLine": {"api_address"},
    "RequestContext": {"constraint"},  # the name of a field
    "UpscalerInfo": {"architecture"},
    "_StoredAsset": {"temp_storage_path", "thumbnail_path", "thumbnail_url", "url"},
    "ImageAsset": {"temp_storage_path", "thumbnail_path", "thumbnail_url", "url"},  # storage keys: ids and a number
    "VideoAsset": {"temp_storage_path", "thumbnail_path", "thumbnail_url", "url"},
    "ExtraFile": {"url"},
    "FailedMetadata": {"assets_pending"},
    "FailedPayload": {"error_message"},
    "Operator": {"callback_hosts"},
    "ChatOperator": {"callback_hosts", "models"},
    "Context": {"sources"},  # field names
    "CollectedFields": {"sources"},  # the same
    "OpenAIErrorBody": {"message", "param"},
    "OpenAIResponseOptions": {"shown_model"},
    "_Group": {"bracket"},
    "Reference": {"value"},  # redacted by its repr: see below
    "FieldLocation": {"aliases"},
    "ComputedDefault": {"text"},  # a text of the contract
    "Problem": {"allowed", "nearest", "sent"},  # sanitized by `show_value`
    "Conflict": {"allowed", "nearest", "sent"},
    "ServerRejection": {"allowed", "nearest", "sent"},  # an HTTP status
    "TemplateRejection": {"allowed", "nearest", "sent"},
    "Worker": {"recipe", "request"},
    "TraceContext": {"trace_id", "parent_id"},  # random digits
    "TracingSettings": {"otel_service_name"},
    "OutboxFile": {"key"},
    "OutboxEntry": {"stored", "traceparent"},  # keys, hashes and ids
    "ListedObject": {"key"},
    "EncodedOutput": {"facts"},
    "ImageOutput": {"metadata"},
    "VideoOutput": {"metadata"},
    "TextOutput": {"metadata"},
    "Summary": {"metadata"},
    "WanPipelines": {"image_to_video", "text_to_video", "vace"},
    "ImageEncoder": {"processor"},
    "IpAdapter": {"encoder_output", "layers"},
    "Fallback": {"description"},
    "ChatModel": {"tokenizer"},
    "LoraTarget": {"layers", "optional", "original_names", "prefixes"},
    "Handler": {"checks", "libraries", "request", "stored_types"},
    "BucketLocation": {"bucket", "region"},
    "StorageSettings": {"bucket_name", "bucket_region", "storage_bucket"},
    "Settings": {
        "bucket_name",
        "otel_service_name",
        "bucket_region",
        "callback_allowed_hosts",
        "chat_base_name",
        "chat_engine_model",
        "chat_instruct_name",
        "reference_allowed_hosts",
        "reference_buckets",
        "runpod_pod_id",
        "sdxl_model_name",
        "sfw_words",
        "storage_bucket",
        "wan_model_name",
    },
    "StoredObject": {"key"},
    "WebhookResult": {"reason"},
    "Weights": {"patterns"},
    "PublishedFile": {"blob"},
    "AddonKind": {"folder", "only"},
    "ChatSettings": {"sfw_words"},
    "AdapterReference": {"image"},
    "RefinerNetwork": {"unet"},
    "RefinerPass": {"pipeline"},
    "SchedulerConfig": {"class_name", "overrides"},
    "JobPipeline": {"accelerations", "metadata", "pipeline", "references", "textual_inversions"},
    "LayerUpdate": {"algorithm", "factors"},
    "Lora": {"unused", "updates"},  # layer names and tensors of the operator's file
    "LoraLayer": {"parameter"},
    "_LayerParts": {"parts"},
    "_File": {"config", "header", "layers", "unparsed"},
    "WanOperator": {"callback_hosts"},
}


def classes() -> Iterator[type]:
    """Yields every class that `shared` and `handlers` define, including nested ones."""
    for package in (shared, handlers):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            yield from _within(module, module.__name__)


def _within(holder: Any, module: str) -> Iterator[type]:
    for held in vars(holder).values():
        if inspect.isclass(held) and held.__module__ == module:
            yield held
            yield from _within(held, module)


def may_hold_text(kind: Any) -> bool:
    """Whether a field of this type can itself hold text. Objects of our own classes are checked separately."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return may_hold_text(inner[0])
    if origin in (typing.Literal, collections.abc.Callable):
        return False
    if origin is not None:
        return any(may_hold_text(each) for each in inner if each is not Ellipsis)
    return not inspect.isclass(kind) or kind in (object, Any) or issubclass(kind, (str, bytes, dict, list, tuple, set, SecretStr))


def canary(name: str) -> str:
    return f"canary-{name}-{len(name)}"


def with_canaries(kind: type) -> tuple[Any, list[str]] | None:
    """Returns an instance with a canary in each field that can hold text, and those fields' names; None for classes without fields."""
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        made = object.__new__(kind)
        texts = [field.name for field in dataclasses.fields(kind) if may_hold_text(hints.get(field.name, str))]
        for field in dataclasses.fields(kind):
            object.__setattr__(made, field.name, canary(field.name) if field.name in texts else 7)
        return made, texts
    if issubclass(kind, BaseModel):
        fields = kind.model_fields
        texts = [name for name, field in fields.items() if may_hold_text(field.annotation)]
        values: dict[str, Any] = {
            name: SecretStr(canary(name)) if "SecretStr" in str(fields[name].annotation) else canary(name) for name in texts
        }
        return kind.model_construct(**dict[str, Any](dict.fromkeys(fields, 7)) | values), texts
    return None


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except NameError:  # a name that is imported for type checkers only
        return {}


def public_fields(kind: type) -> set[str]:
    return set(PUBLIC) | PUBLIC_IN.get(kind.__name__, set())


@pytest.fixture(scope="module")
def found() -> list[type]:
    return list(dict.fromkeys(classes()))


def test_no_repr_shows_a_field_that_is_not_public(found: list[type]) -> None:
    shown = []
    for kind in found:
        if (made := with_canaries(kind)) is None:
            continue
        instance, texts = made
        text = f"{instance!r} {instance!s} {instance}"
        shown += [
            f"{kind.__module__}.{kind.__qualname__}.{name}" for name in texts if canary(name) in text and name not in public_fields(kind)
        ]
    assert shown == []


def test_a_new_class_that_shows_text_is_detected() -> None:
    @dataclasses.dataclass(frozen=True)
    class Careless:
        prompt: str
        steps: int

    instance, texts = with_canaries(Careless) or (None, [])
    assert texts == ["prompt"]
    assert canary("prompt") in repr(instance)
    assert "prompt" not in public_fields(Careless)


def test_every_public_field_exists(found: list[type]) -> None:
    fields: dict[str, set[str]] = {}
    for kind in found:
        if (made := with_canaries(kind)) is not None:
            fields.setdefault(kind.__name__, set()).update(made[1])
    assert {name: names - fields.get(name, set()) for name, names in PUBLIC_IN.items() if names - fields.get(name, set())} == {}


def test_errors_show_only_their_message(found: list[type]) -> None:
    for kind in found:
        if issubclass(kind, BaseException) and "message" in inspect.signature(kind.__init__).parameters:
            assert repr(kind("a message")).startswith(f"{kind.__name__}('a message'")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:canary@host.example:8443/a.png?token=canary#canary", "https://host.example:8443/a.png"),
        ("data:image/png;base64,canary", "a data: URL of 28 characters"),
        ("bucket/u/a.png?token=canary", "bucket/u/a.png"),
        ("https://[canary", "a malformed URL"),
    ],
)
def test_a_reference_shows_its_location_without_credentials(text: str, shown: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == shown
    assert "canary" not in f"{reference!r} {reference}"


def test_the_repr_of_a_request_shows_no_content() -> None:
    raw = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "canary-prompt", "negative_prompt": "canary-negative"}
    request = SdxlRequest.parse(raw | {"config": {"loras": [{"name": "canary-lora"}]}}, job_id="j")
    assert repr(request) == "SdxlRequest(job_id='j', type='sdxl_image_fast')"
    chat = ChatRequest.parse({"messages": [{"role": "user", "content": "canary-words"}], "stop": ["canary-stop"]}, job_id="j")
    assert "canary" not in f"{chat!r} {chat} {chat.messages!r} {list(map(str, chat.messages))}"
