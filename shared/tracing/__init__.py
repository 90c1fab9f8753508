"""The optional export of spans to an OpenTelemetry collector."""

from __future__ import annotations

from shared.settings import Settings
from shared.telemetry import Tracer

__all__ = ["open_tracer"]


def open_tracer(settings: Settings, service: str) -> Tracer:
    """Returns the tracer of this worker.

    The SDK of OpenTelemetry is imported only if the environment turns the export on: it would delay the start of every worker.

    Args:
        settings: Names the collector.
        service: The service's name, unless `OTEL_SERVICE_NAME` is set.
    """
    if settings.otlp_traces_url is None:
        return Tracer()
    from shared.tracing.export import ExportingTracer

    headers = settings.otlp_headers.get_secret_value() if settings.otlp_headers is not None else ""
    return ExportingTracer(settings.otlp_traces_url, headers, settings.otel_service_name or service)
