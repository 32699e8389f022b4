"""Traces by OpenTelemetry, from a request over its action and the action's steps to each pack that is copied.

Off unless an endpoint is given: then nothing of OpenTelemetry is imported, and a span costs one comparison. A trace
crosses from the request to the worker by ``carrier()``, a text that is kept with the action, and ``continued()``.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, Protocol

from wherry.errors import BadRequest, WherryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

Value = str | int | float | bool
Kind = Literal["server", "consumer", "internal"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FIELD = "traceparent"
_PATIENCE_S = 3.0


class Span(Protocol):
    """A piece of work that takes time."""

    def note(self, **facts: Value | None) -> None:
        """Say something of it; None says nothing. Names are shown with ``wherry.`` before them."""

    def rename(self, name: str) -> None:
        """Call it by another name, which was not known at its begin."""

    def failed(self, code: str) -> None:
        """Say that it failed, where no error leaves it."""


class _Off:
    """The span of a process that does not trace."""

    def note(self, **facts: Value | None) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def failed(self, code: str) -> None:
        pass


_OFF = nullcontext(_Off())
_ON: _Tracer | None = None


def set_up_tracing(role: str, endpoint: str | None = None, *, exporter: SpanExporter | None = None) -> bool:
    """Trace from now on, if there is an endpoint: this one, or one in the environment as OpenTelemetry names it.

    ``role`` (serve, worker) is noted in every span. With ``exporter``, spans go there as soon as they end; that is for
    tests. Answers whether this process traces. Raises BadRequest where an endpoint is given and OpenTelemetry is not
    installed.
    """
    global _ON  # noqa: PLW0603  one tracer a process, like one log
    if endpoint is None and exporter is None and not any(os.environ.get(name) for name in _ENDPOINTS):
        return False
    stop_tracing()
    try:
        _ON = _Tracer(role, endpoint, exporter)
    except ImportError as error:
        raise BadRequest(
            "Traces are asked for (OTEL_EXPORTER_OTLP_ENDPOINT), but OpenTelemetry is not installed: "
            "pip install 'wherry[tracing]', or unset that variable."
        ) from error
    return True


def stop_tracing() -> None:
    """Send what has ended, and trace no more."""
    global _ON
    tracer, _ON = _ON, None
    if tracer is not None:
        tracer.stop()


def span(name: str, *, kind: Kind = "internal", **facts: Value | None) -> AbstractContextManager[Span]:
    """A span that lasts as long as the block, below the one that is current. An error that leaves it is noted."""
    return _OFF if _ON is None else _ON.span(name, kind, facts)


def happened(event: str, **facts: Value | None) -> None:
    """Say that something happened now, in the span that is current."""
    if _ON is not None:
        _ON.happened(event, facts)


def carrier() -> str | None:
    """The current span as a text (a W3C traceparent) from which another process can go on; None if there is none."""
    return None if _ON is None else _ON.carrier()


def continued(traceparent: str | None) -> AbstractContextManager[None]:
    """Let the spans of the block be below the one that this text stands for. None: no change."""
    return nullcontext() if _ON is None or traceparent is None else _ON.continued(traceparent)


class _Tracer:
    """OpenTelemetry's tracer. Not its global one, which other libraries in the process would use as well."""

    def __init__(self, role: str, endpoint: str | None, exporter: SpanExporter | None) -> None:
        from opentelemetry import context, trace  # noqa: PLC0415  only a process that traces pays for the import
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._context = context
        self._trace = trace
        self._text = TraceContextTextMapPropagator()
        self._provider = _provider(role, endpoint, exporter)
        self._tracer = self._provider.get_tracer("wherry")
        self._kinds = {
            "server": trace.SpanKind.SERVER,
            "consumer": trace.SpanKind.CONSUMER,
            "internal": trace.SpanKind.INTERNAL,
        }

    @contextmanager
    def span(self, name: str, kind: Kind, facts: dict[str, Value | None]) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name,
            kind=self._kinds[kind],
            attributes=_named(facts),
            record_exception=False,
            set_status_on_exception=False,
        ) as inner:
            live = _Live(inner, self._trace.StatusCode.ERROR)
            try:
                yield live
            except BaseException as error:
                # No stack trace, which may have anything in it, and no message but one that is written for people.
                if isinstance(error, WherryError):
                    live.failed(error.id, error.message)
                else:
                    live.failed(type(error).__name__)
                raise

    def happened(self, event: str, facts: dict[str, Value | None]) -> None:
        self._trace.get_current_span().add_event(event, _named(facts))

    def carrier(self) -> str | None:
        carried: dict[str, str] = {}
        self._text.inject(carried)
        return carried.get(_FIELD)

    @contextmanager
    def continued(self, traceparent: str) -> Iterator[None]:
        parent: Context = self._text.extract({_FIELD: traceparent}, self._context.get_current())
        token = self._context.attach(parent)
        try:
            yield
        finally:
            self._context.detach(token)

    def stop(self) -> None:
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(_PATIENCE_S)  # a collector that is away must not hold up the end of the process


class _Live:
    """A span that is sent."""

    def __init__(self, inner: Any, failure: Any) -> None:
        self._inner = inner
        self._failure = failure

    def note(self, **facts: Value | None) -> None:
        self._inner.set_attributes(_named(facts))

    def rename(self, name: str) -> None:
        self._inner.update_name(name)

    def failed(self, code: str, message: str | None = None) -> None:
        self._inner.set_attribute("error.type", code)
        self._inner.set_status(self._failure, message)


def _named(facts: dict[str, Value | None]) -> dict[str, Value]:
    return {f"wherry.{name}": value for name, value in facts.items() if value is not None}


def _provider(role: str, endpoint: str | None, exporter: SpanExporter | None) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  as above
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415

    # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before what is said here.
    resource = Resource.create({"service.name": "wherry", "wherry.role": role}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    if exporter is not None:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    else:
        url = None if endpoint is None else endpoint.rstrip("/") + "/v1/traces"
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    return provider
