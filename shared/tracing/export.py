"""Exports spans of jobs by OTLP over HTTP, with OpenTelemetry's SDK. Imported only when the export is turned on.

Spans are exported in batches by a thread of the SDK; a collector that is away delays no job, and its spans are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Tracer as OpenTelemetryTracer
from opentelemetry.util.re import parse_env_headers

from shared.telemetry import JobTrace, Tracer
from shared.trace_context import TraceContext


class ExportingTracer(Tracer):
    """Exports a span for each job and each of its stages.

    The sampler, the batches, the timeouts, the compression and further resource attributes are those of the standard `OTEL_*` variables.

    Args:
        endpoint: The URL for traces of an OTLP receiver: `https://collector.example.com/v1/traces`.
        headers: `name=value` pairs, comma-separated, percent-encoded: as in `OTEL_EXPORTER_OTLP_HEADERS`.
        service: `service.name`.
    """

    def __init__(self, endpoint: str, headers: str, service: str) -> None:
        exporter = OTLPSpanExporter(endpoint=endpoint, headers=parse_env_headers(headers, liberal=True))
        provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = provider.get_tracer("gpu-handlers")

    def start(self, context: TraceContext | None, attributes: Mapping[str, str]) -> JobTrace:
        """Starts the span of a job, as a child of the caller's."""
        parent = set_span_in_context(_remote(context)) if context is not None else Context()
        return _ExportedTrace(self._tracer, self._tracer.start_span("job", parent, SpanKind.CONSUMER, attributes))


class _ExportedTrace(JobTrace):
    def __init__(self, tracer: OpenTelemetryTracer, span: Span) -> None:
        own = span.get_span_context()
        super().__init__(TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}", own.trace_flags.sampled))
        self._tracer, self._span = tracer, span

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        # Neither the message nor the traceback of an exception is recorded: both may contain prompts and paths.
        parent = set_span_in_context(self._span)
        with ExitStack() as stack:
            current = self._tracer.start_as_current_span(name, parent, record_exception=False, set_status_on_exception=False)
            stack.push(partial(_note_failure, stack.enter_context(current)))
            yield

    def end(self, outcome: str, error_code: str | None) -> None:
        self._span.set_attribute("job.outcome", outcome)
        if error_code is not None:
            self._span.set_attribute("error.type", error_code)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def _remote(context: TraceContext) -> NonRecordingSpan:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return NonRecordingSpan(SpanContext(int(context.trace_id, 16), int(context.parent_id, 16), is_remote=True, trace_flags=flags))


def _note_failure(span: Span, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
    """Records how a block has ended. It suppresses no exception."""
    if kind is not None:
        span.set_attribute("error.type", kind.__name__)
        span.set_status(Status(StatusCode.ERROR))
