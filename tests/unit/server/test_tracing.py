"""Traces: nothing when off, one tree from a request to each pack when on, sent as OpenTelemetry says."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from wherry.errors import BadRequest, BlockMissing, StoreFull
from wherry.fingerprint import block_digest
from wherry.records import PLAIN, Entry
from wherry.server.storage.copy import find_elsewhere
from wherry.server.telemetry.tracing import carrier, continued, mark_failed, set_up_tracing, span, stop_tracing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from wherry.errors import StorageError

FROM_OUTSIDE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ended() -> Iterator[InMemorySpanExporter]:
    """The spans that ended, in a process that traces."""
    exporter = InMemorySpanExporter()
    assert set_up_tracing("serve", exporter=exporter)
    yield exporter
    stop_tracing()


def by_name(ended: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {one.name: one for one in ended.get_finished_spans()}


def is_below(lower: ReadableSpan, upper: ReadableSpan) -> bool:
    """Whether a span is a direct child of another one."""
    return (
        lower.parent is not None
        and lower.parent.span_id == upper.context.span_id
        and lower.context.trace_id == upper.context.trace_id
    )


def test_a_process_that_does_not_trace_needs_no_sdk() -> None:
    """Without an endpoint, spans do nothing and OpenTelemetry's SDK is not loaded."""
    program = (
        "import sys\n"
        "import wherry.server.http, wherry.server.storage\n"
        "from wherry.server.telemetry.tracing import carrier, continued, set_up_tracing, span\n"
        "assert not set_up_tracing('serve')\n"
        f"with continued('{FROM_OUTSIDE}'), span('request', call='images.get') as request:\n"
        "    assert not request.is_recording()\n"
        "    assert carrier() is None\n"
        "assert not {'opentelemetry.sdk', 'opentelemetry.exporter'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_span_says_what_it_was_told(ended: InMemorySpanExporter) -> None:
    """Facts are attributes under wherry's name; None is left out."""
    with span("step copy", kind=SpanKind.CONSUMER, action_id=7, region=None) as copying:
        copying.set_attribute("wherry.blocks", 3)
    found = by_name(ended)["step copy"]
    assert found.attributes == {"wherry.action_id": 7, "wherry.blocks": 3}
    assert found.kind is SpanKind.CONSUMER
    assert found.resource.attributes["service.name"] == "wherry"
    assert found.resource.attributes["wherry.role"] == "serve"


def test_the_environment_may_name_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SERVICE_NAME goes before the name that wherry gives itself."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "images-eu")
    exporter = InMemorySpanExporter()
    set_up_tracing("serve", exporter=exporter)
    with span("request"):
        pass
    stop_tracing()
    assert by_name(exporter)["request"].resource.attributes["service.name"] == "images-eu"


def test_an_error_is_noted_without_a_stack_trace(ended: InMemorySpanExporter) -> None:
    """An error of ours is told with its code and sentence, any other with its kind alone."""
    with pytest.raises(StoreFull), span("ours"):
        raise StoreFull("there is no room")
    with pytest.raises(RuntimeError), span("other"):
        raise RuntimeError("password 'secret'")
    ours, other = by_name(ended)["ours"], by_name(ended)["other"]
    assert (ours.status.status_code, ours.status.description) == (StatusCode.ERROR, "there is no room")
    assert ours.attributes == {"error.type": "store_full"}
    assert (other.status.status_code, other.status.description) == (StatusCode.ERROR, None)
    assert other.attributes == {"error.type": "RuntimeError"}
    assert not ours.events
    assert not other.events


def test_a_failure_that_raises_nothing_can_be_told(ended: InMemorySpanExporter) -> None:
    """A span may be said to have failed, and get the name that was not known at its begin."""
    with span("request") as request:
        request.update_name("request images.get")
        mark_failed(request, "503")
    found = by_name(ended)["request images.get"]
    assert found.status.status_code is StatusCode.ERROR
    assert found.attributes == {"error.type": "503"}


class Copies:
    """Knows the same copy of every block."""

    def stored(self, entry: Entry, _key: str, _error: StorageError) -> tuple[Entry, bytes]:
        return entry, b"data"


def test_a_rescued_block_is_an_event(ended: InMemorySpanExporter) -> None:
    """A block that another copy stood in for is told of in the span of its pack, with what was wrong."""
    digest = block_digest(b"data")
    entry = Entry(digest, digest, 0, 4, 4, PLAIN)
    with span("copy pack"):
        find_elsewhere(Copies(), entry, "packs/ab/abcd", BlockMissing("it is gone"))
    (event,) = by_name(ended)["copy pack"].events
    assert event.name == "block rescued"
    assert event.attributes == {
        "wherry.block": digest.hex(), "wherry.pack": "packs/ab/abcd", "wherry.code": "block_missing",
    }  # fmt: skip


def test_a_trace_goes_on_in_another_thread_by_its_text(ended: InMemorySpanExporter) -> None:
    """What ``carrier`` answers is enough for a worker to go on below the request."""
    with span("request"):
        kept = carrier()

    def work() -> None:
        with continued(kept), span("action transfer"):
            pass

    with ThreadPoolExecutor(1) as worker:
        worker.submit(work).result()
    found = by_name(ended)
    assert is_below(found["action transfer"], found["request"])


def test_a_trace_of_the_callers_goes_on(ended: InMemorySpanExporter) -> None:
    """A traceparent from outside is the parent of what is done for it."""
    with continued(FROM_OUTSIDE), span("request"):
        pass
    parent = by_name(ended)["request"].parent
    assert parent is not None
    assert f"{parent.trace_id:032x}-{parent.span_id:016x}" == FROM_OUTSIDE[3:52]


@pytest.mark.parametrize("text", [None, "", "junk", "00-0-0-01", "ff-" + FROM_OUTSIDE[3:], FROM_OUTSIDE * 100])
def test_a_text_that_is_no_trace_changes_nothing(ended: InMemorySpanExporter, text: str | None) -> None:
    """Whatever stands there, the work is done, in a trace of its own."""
    with continued(text), span("request"):
        pass
    assert by_name(ended)["request"].parent is None


def test_where_opentelemetry_is_missing_the_start_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint without the library stops the start and says what to install."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadRequest, match="wherry\\[tracing\\]"):
        set_up_tracing("serve")
    assert carrier() is None


class Collector(HTTPServer):
    """Takes spans in as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.names: list[str] = []
        self.path = ""

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        self.server.path = self.path
        self.server.names += [
            one.name for resource in sent.resource_spans for scope in resource.scope_spans for one in scope.spans
        ]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on loopback."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_spans_reach_a_collector(collector: Collector, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """Spans are sent to the endpoint, and what is left is sent at the end."""
    if given == "environment":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    assert set_up_tracing("worker", collector.url if given == "argument" else None)
    with span("action transfer"), span("step copy"):
        pass
    stop_tracing()
    assert sorted(collector.names) == ["action transfer", "step copy"]
    assert collector.path == "/v1/traces"
