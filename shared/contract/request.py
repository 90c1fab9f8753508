"""The base class of requests: frozen, flat values, parsed from a job's input with all problems reported at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic import ValidationError as PydanticError

from shared.contract.callback_hosts import LOOPBACK_HOSTS, allows_callback
from shared.contract.collect_fields import CollectedFields, collect_fields, ensure_bounded
from shared.contract.context import DEFAULT_OPERATOR, Context, Operator, RequestWarnings
from shared.contract.field_location import UNSET, ComputedDefault, FieldLocation, field_locations
from shared.contract.fields import Id, Text
from shared.contract.limits import ensure_lists_bounded
from shared.contract.problems import independent_errors, to_problems, validation_error
from shared.contract.references import Reference
from shared.contract.rejections import refuse
from shared.trace_context import TraceContext, parse_traceparent

__all__ = ["Identity", "Operator", "Request", "identify"]

_MAX_URL_LENGTH = 2048
_CALLBACK_ALLOWED = "an https:// URL, without credentials, of a host and port that the operator allows (CALLBACK_ALLOWED_HOSTS)"


def _ensure_callback(url: str, info: ValidationInfo) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise refuse(_CALLBACK_ALLOWED) from None
    # Plain http is for development: only to loopback hosts that the operator allows by name.
    scheme_is_fine = parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK_HOSTS)
    is_plain = len(url) <= _MAX_URL_LENGTH and url.isprintable() and " " not in url and "\\" not in url and "@" not in parts.netloc
    if not (scheme_is_fine and is_plain and allows_callback(host, port, Context.of(info).operator.callback_hosts)):
        raise refuse(_CALLBACK_ALLOWED)
    return url


def _ignore_malformed_traceparent(value: str | None, info: ValidationInfo) -> str | None:
    if value is None or parse_traceparent(value) is not None:
        return value
    Context.of(info).warnings.add_ignored("traceparent", "it is not one of W3C Trace Context")
    return None


id_location = FieldLocation("id", aliases=("job_id",), sections=("top",), must_agree=True)
user_id_location = FieldLocation("user_id", sections=("top",))
type_location = FieldLocation("type", aliases=("job_type",), sections=("top",))

CallbackUrl = Annotated[Text, AfterValidator(_ensure_callback), Field(json_schema_extra={"format": "uri", "allowed": _CALLBACK_ALLOWED})]


class Request(BaseModel):
    """One job's parameters. Subclasses declare the fields of their handler.

    Attributes:
        warnings: What was ignored or changed although the request is valid: unknown fields, mapped sizes.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    descriptive: ClassVar[frozenset[str]] = frozenset(
        {
            "attempt", "attempts", "bucket", "character_id", "completed_at", "content_type", "conversation_id", "cost", "created_at",
            "credits", "destination", "enhance_prompt", "enhanced_prompt", "enhancement_type", "expected_time", "file_extension",
            "format", "image_id", "job_category", "max_attempts", "message_id", "model", "model_id", "model_type", "model_variant",
            "nsfw_optimization", "original_prompt", "pipeline", "priority", "project_id", "quality", "request_id", "retry_count",
            "scene_id", "session_id", "source", "started_at", "status", "tags", "title", "updated_at", "user_requested_enhancement",
            "video_id", "worker_type", "workspace_id",
        }
    )  # fmt: skip
    """Columns of the callers' job table that come along with a request. They are ignored without a warning."""

    repeated: ClassVar[frozenset[str]] = frozenset({"id", "job_id", "user_id", "type", "job_type"})
    """Top-level names that callers repeat in `config`, where they have no effect and cause no warning."""

    job_id: Annotated[
        Id,
        id_location,
        ComputedDefault(lambda _, context: context.job_id, "RunPod's id of the job"),
        Field(description="The job's id. If both names are given they must agree."),
    ] = UNSET
    user_id: Annotated[Id | None, user_id_location, Field(description="The owner of the job.")] = None
    type: Annotated[str, type_location, Field(description="The kind of job.", pattern=r"^[a-z0-9_]{1,64}$")]
    callback_url: Annotated[
        CallbackUrl | None,
        FieldLocation("callback_url", sections=("top",)),
        Field(description="The URL of this job's callback, instead of the configured one."),
    ] = None
    traceparent: Annotated[
        Text | None,
        AfterValidator(_ignore_malformed_traceparent),
        FieldLocation("traceparent", sections=("top",)),
        Field(description="The caller's position in a trace (W3C Trace Context), for callbacks and the log. A malformed one is ignored."),
    ] = None
    warnings: tuple[str, ...] = ()

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # Keeps prompts out of log lines.
        yield from (("job_id", self.job_id), ("type", self.type))

    @classmethod
    def parse(cls, raw: object, *, job_id: str, operator: Operator = DEFAULT_OPERATOR) -> Self:
        """Parses a job's input.

        Args:
            raw: The input: nested or flat, canonical names or aliases.
            job_id: RunPod's id of the job, the default where the request's own id is optional.
            operator: The operator's settings that the request is validated against.

        Raises:
            ValidationError: Lists all problems of the request.
        """
        ensure_bounded(raw)
        warnings = RequestWarnings()
        collected = cls._collect(raw, warnings, operator)
        if any(isinstance(value, list | tuple) for value in collected.values.values()):
            ensure_lists_bounded(cls, collected.values, collected.sources, collected.problems)
        context = Context(operator, job_id, {name: collected.sources[name] for name in collected.values}, warnings)
        try:
            request = cls.model_validate(collected.values, context=context)
        except PydanticError as error:
            errors = independent_errors(error)
            raise validation_error(collected.problems, to_problems(cls, errors, collected.sources), len(errors), warnings) from None
        if collected.problems:
            raise validation_error(collected.problems, warnings=warnings)
        return request.model_copy(update={"warnings": tuple(warnings)})

    @classmethod
    def _collect(cls, raw: object, warnings: RequestWarnings, operator: Operator) -> CollectedFields:
        """Collects the fields' values. Requests that accept several forms of input override this."""
        return collect_fields(cls, raw, warnings, descriptive=cls.descriptive, repeated=cls.repeated)

    @property
    def references(self) -> Mapping[str, Reference]:
        """The images to fetch, by the canonical path of their field: `config.image`."""
        return MappingProxyType({})


@dataclass(frozen=True)
class Identity:
    """The owner of a job and the target of its callback, known even if the request is invalid.

    Attributes:
        trace: The caller's position in a trace; while the job runs, its own.
        runpod_id: RunPod's id of the job. Repeated deliveries have the same id; a new attempt of the same `job_id` has another.
    """

    job_id: str
    user_id: str | None
    job_type: str | None
    callback_url: str | None = field(repr=False)
    runpod_id: str = ""
    trace: TraceContext | None = None


def _identity_values(raw: Mapping[object, Any]) -> dict[str, Any]:
    found = {
        name: next((value for _, alias in location.candidates() if (value := raw.get(alias)) is not None), None)
        for name, location in field_locations(Request).items()
    }
    return {name: value for name, value in found.items() if value is not None}


def identify(raw: object, *, job_id: str, operator: Operator = DEFAULT_OPERATOR) -> Identity:
    """Extracts the valid identity fields of a request that may be invalid, for the payload of a failed job. Never raises.

    Only these fields are looked up: the rest is collected once, by `Request.parse`.

    Args:
        raw: The job's input, of any type.
        job_id: RunPod's id of the job, used if the request has no valid one.
        operator: Decides which callback hosts are allowed.
    """
    values = _identity_values(raw) if isinstance(raw, Mapping) else {}
    try:
        Request.model_validate(values, context=Context(operator, job_id))
    except PydanticError as error:
        invalid = {detail["loc"][0] for detail in error.errors(include_url=False, include_input=False)}
        values = {name: value for name, value in values.items() if name not in invalid}
    trace = parse_traceparent(values["traceparent"]) if "traceparent" in values else None
    return Identity(values.get("job_id", job_id), values.get("user_id"), values.get("type"), values.get("callback_url"), job_id, trace)
