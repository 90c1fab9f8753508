"""The settings of the export of traces: OpenTelemetry's standard variables, as far as this code reads them.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/. Its SDK reads the others itself: samplers, batches, timeouts, compression,
resource attributes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

_TRACES_PATH = "/v1/traces"


class TracingSettings(BaseSettings):
    """The part of `Settings` that says where spans go."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        repr=False,
        description="URL of an OpenTelemetry collector, such as `https://collector.example.com:4318`. Turns on the export of spans, to "
        "`/v1/traces` there, by OTLP over HTTP; the SDK's other `OTEL_*` variables apply as well.",
    )
    otel_exporter_otlp_traces_endpoint: str | None = Field(
        None, repr=False, description="The same, as the complete URL for traces. It takes precedence."
    )
    otel_exporter_otlp_headers: SecretStr | None = Field(
        None, description="Headers for the collector: `name=value` pairs, comma-separated, with percent-encoded values."
    )
    otel_exporter_otlp_traces_headers: SecretStr | None = Field(None, description="The same for traces. It takes precedence.")
    otel_exporter_otlp_protocol: Literal["http/protobuf"] = Field("http/protobuf", description="The protocol; there is no other here.")
    otel_traces_exporter: Literal["otlp", "none"] = Field("otlp", description="`none` turns the export of spans off.")
    otel_sdk_disabled: bool = Field(False, description="Turns the export of spans off.")
    otel_service_name: str | None = Field(None, description="`service.name` of the spans; by default that of the image: `sdxl-worker`.")

    @property
    def otlp_traces_url(self) -> str | None:
        """Where spans are exported to; None if the export is off."""
        if self.otel_sdk_disabled or self.otel_traces_exporter == "none":
            return None
        if self.otel_exporter_otlp_traces_endpoint is not None or self.otel_exporter_otlp_endpoint is None:
            return self.otel_exporter_otlp_traces_endpoint
        return self.otel_exporter_otlp_endpoint.rstrip("/") + _TRACES_PATH

    @property
    def otlp_headers(self) -> SecretStr | None:
        """The headers for the collector, as the variable has them."""
        return self.otel_exporter_otlp_traces_headers or self.otel_exporter_otlp_headers
