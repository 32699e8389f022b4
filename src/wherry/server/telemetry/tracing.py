"""Traces by OpenTelemetry, from a request over its action and the action's steps to each pack that is copied.

The code uses OpenTelemetry's API, whose spans do nothing until ``set_up_tracing`` starts its SDK. A trace crosses from
the request to the worker by ``carrier()``, a text that is stored with the action, and ``continued()``.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from wherry.errors import BadRequest, WherryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FIELD = "traceparent"
_PATIENCE_S = 3.0
_PROPAGATOR = TraceContextTextMapPropagator()

# One of each a process, like one log. Not OpenTelemetry's global ones, which other libraries would use as well.
_provider: TracerProvider | None = None
_tracer: Tracer = trace.NoOpTracer()


def set_up_tracing(role: str, endpoint: str | None = None, *, exporter: SpanExporter | None = None) -> bool:
    """Send spans from now on, if an endpoint is given, here or in the environment as OpenTelemetry names it.

    Args:
        role: serve or worker; an attribute of every span.
        endpoint: the URL of a collector that takes OTLP over HTTP.
        exporter: receives each span as soon as it ends, instead of a collector. For tests.

    Returns:
        Whether this process sends spans.

    Raises:
        BadRequest: an endpoint is given, and OpenTelemetry's SDK is not installed.
    """
    global _provider, _tracer  # noqa: PLW0603
    if endpoint is None and exporter is None and not any(os.environ.get(name) for name in _ENDPOINTS):
        return False
    stop_tracing()
    try:
        _provider = _make_provider(role, endpoint, exporter)
    except ImportError as error:
        raise BadRequest(
            "Traces are asked for (OTEL_EXPORTER_OTLP_ENDPOINT), but OpenTelemetry is not installed: "
            "pip install 'wherry[tracing]', or unset that variable."
        ) from error
    _tracer = _provider.get_tracer("wherry")
    return True


def stop_tracing() -> None:
    """Send the spans that ended, and stop."""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, trace.NoOpTracer()
    if provider is not None:
        last = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(_PATIENCE_S)  # a collector that is away must not hold up the end of the process


@contextmanager
def span(name: str, *, kind: SpanKind = SpanKind.INTERNAL, **facts: str | float | bool | None) -> Iterator[Span]:
    """Start a span that ends with the block, below the current one. ``facts`` are attributes; None is left out."""
    attributes = {f"wherry.{name}": value for name, value in facts.items() if value is not None}
    with _tracer.start_as_current_span(
        name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except BaseException as error:
            # No stack trace, which may hold anything, and no message but one that is written for people.
            if isinstance(error, WherryError):
                mark_failed(current, error.id, error.message)
            else:
                mark_failed(current, type(error).__name__)
            raise


def mark_failed(failed: Span, code: str, message: str | None = None) -> None:
    """Give a span the status of an error."""
    failed.set_attribute("error.type", code)
    failed.set_status(StatusCode.ERROR, message)


def carrier() -> str | None:
    """Return the current span as a text (W3C's traceparent) for ``continued`` in another process, or None."""
    carried: dict[str, str] = {}
    _PROPAGATOR.inject(carried)
    return carried.get(_FIELD)


@contextmanager
def continued(traceparent: str | None) -> Iterator[None]:
    """Put the spans of the block below the one that a text from ``carrier`` names."""
    if traceparent is None or _provider is None:
        yield
        return
    token = context.attach(_PROPAGATOR.extract({_FIELD: traceparent}, context.get_current()))
    try:
        yield
    finally:
        context.detach(token)


def _make_provider(role: str, endpoint: str | None, exporter: SpanExporter | None) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  wherry[tracing]
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415

    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence over these.
    resource = Resource.create({"service.name": "wherry", "wherry.role": role}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    if exporter is not None:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    else:
        url = None if endpoint is None else endpoint.rstrip("/") + "/v1/traces"
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    return provider
