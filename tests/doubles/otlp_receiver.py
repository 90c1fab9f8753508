"""A collector of OpenTelemetry on loopback: OTLP over HTTP, decoded."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from playground.loopback import LoopbackServer, RequestHandler


@dataclass(frozen=True)
class ReceivedSpan:
    """A span. Ids are hexadecimal; the parent of a root is empty."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, str]
    failed: bool
    events: int
    service: str


class OtlpReceiver(LoopbackServer):
    """Collects spans.

    Attributes:
        headers: Those of each request.
        bodies: The raw bodies, decompressed.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self._spans: list[ReceivedSpan] = []
        self._received = threading.Condition()

    def receive(self, headers: Mapping[str, str], body: bytes) -> None:
        """Decodes a request."""
        content = gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
        with self._received:
            self.headers.append(dict(headers))
            self.bodies.append(content)
            self._spans += decode(content)
            self._received.notify_all()

    def trace(self, trace_id: str, seconds: float = 30.0) -> Sequence[ReceivedSpan]:
        """Returns the spans of a trace once its job's has arrived, which ends last."""

        def spans() -> list[ReceivedSpan]:
            return [span for span in self._spans if span.trace_id == trace_id]

        with self._received:
            assert self._received.wait_for(lambda: any(span.name == "job" for span in spans()), seconds), "no span of a job"
            return spans()


def decode(body: bytes) -> list[ReceivedSpan]:
    """Decodes an `ExportTraceServiceRequest`."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        ReceivedSpan(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            {each.key: each.value.string_value for each in span.attributes},
            span.status.code == span.status.STATUS_CODE_ERROR,
            len(span.events),
            next(each.value.string_value for each in resource.resource.attributes if each.key == "service.name"),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


class _Handler(RequestHandler[OtlpReceiver]):
    def do_POST(self) -> None:
        self.service.receive(dict(self.headers), self.body())
        self.respond(200, b"", "application/x-protobuf")
