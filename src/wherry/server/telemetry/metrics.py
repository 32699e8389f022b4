"""Every metric there is, and the one way to move each: the list that ``/metrics`` shows.

What a process does is counted in that process, in a registry of its own. What the service as a whole has (actions that
wait, processes that live) is never counted but read from the catalog on each request: a ``Census``. So a process
that dies takes no gauge along, and each process shows the same.

Labels come from lists that do not grow with use: calls, kinds of actions, regions, the words of this module.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric

from wherry.errors import (
    BlockCorrupt,
    BlockMissing,
    ManifestCorrupt,
    ManifestMissing,
    StoreFull,
    StoreUnavailable,
    WherryError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


MEDIA_TYPE = CONTENT_TYPE_LATEST
"""The content type of ``exposition``."""

Moved = Literal["imported", "copied", "exported"]
"""How blocks came into a region (imported, copied from another one) or left the service (exported)."""

Freer = Literal["collect", "compact"]
"""Who frees bytes."""

Limit = Literal["bytes"]
"""What holds running work back: a limit of bytes a second. What has not begun says itself what it waits for."""

"""Where the good copy of a damaged block was: in another region, or in another image of the same one."""

UNKNOWN_CALL = "unknown"
NOWHERE = "none"  # the region of what belongs to none
NO_ERROR = "none"
UNFORESEEN = "unforeseen_fault"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_ACTION_S = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_STORE_S = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_COMMIT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)
_TURN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)
_WRITERS = (1, 2, 4, 8, 16, 32, 64)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which no question here asks for


@dataclass(frozen=True)
class Described:
    """A metric as it is documented."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...]


METRICS: list[Described] = []
"""Every metric, in the order of this file."""

_registry = CollectorRegistry()


def _counter(name: str, text: str, *labels: str) -> Counter:
    METRICS.append(Described(name, "counter", text, labels))
    return Counter(name, text, labels, registry=_registry)


def _histogram(name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
    METRICS.append(Described(name, "histogram", text, labels))
    return Histogram(name, text, labels, registry=_registry, buckets=buckets)


def _gauge(name: str, text: str, *labels: str) -> Described:
    """A gauge that has no value here: a census gives it one."""
    METRICS.append(Described(name, "gauge", text, labels))
    return METRICS[-1]


# ------------------------------------------------------------------------------------------------------- the web face

_requests = _counter("wherry_http_requests_total", "Requests that were answered.", "method", "call", "status")
_request_s = _histogram(
    "wherry_http_request_duration_seconds", "From a request's head until its reply begins.", "method", "call",
    buckets=_REQUEST_S,
)  # fmt: skip
_limited = _counter("wherry_http_rate_limited_total", "Requests that a token's rate limit refused.", "window")

_turned_away = _counter(
    "wherry_http_turned_away_total", "Requests and connections that a limit of the service turned away.", "reason"
)

TurnedAway = Literal[
    "address_connections", "body_size", "connections", "header_size", "header_timeout", "host", "malformed",
    "slow_body", "slow_reader", "tls_handshake", "url_size",
]  # fmt: skip
"""What kept a request or a connection from being served."""


def turned_away(reason: TurnedAway) -> None:
    """A request or a connection was turned away before it got what it wanted."""
    _turned_away.labels(reason).inc()


def request_answered(method: str, call: str, status: int, duration_s: float) -> None:
    """A reply begins. ``call`` is its name in the table of calls, or a word for what is not there."""
    count, duration = _request(method if method in _METHODS else "other", call, status)
    count.inc()
    duration.observe(duration_s)


@cache  # methods, calls and statuses are few; to find a labelled metric costs more than to move it
def _request(method: str, call: str, status: int) -> tuple[Counter, Histogram]:
    return _requests.labels(method, call, status), _request_s.labels(method, call)


def rate_limited(window: Literal["hour", "minute"]) -> None:
    """A request was refused because of its token's limit for an hour or for a minute."""
    _limited.labels(window).inc()


# ------------------------------------------------------------------------------------------------------------ actions

_accepted = _counter("wherry_actions_accepted_total", "Actions that were accepted.", "type")
_ended = _counter("wherry_actions_ended_total", "Actions that ended, as this process saw it.", "type", "status", "code")
_action_s = _histogram(
    "wherry_action_duration_seconds", "From an action's acceptance to its end.", "type", buckets=_ACTION_S
)
_waiting = _gauge("wherry_actions_waiting", "Actions that were accepted and that no process runs.", "type", "region")
_running = _gauge("wherry_actions_running", "Actions that a process runs.", "type", "region")
_oldest = _gauge("wherry_oldest_waiting_action_age_seconds", "Age of the action that waits longest; 0 if none does.")


def action_accepted(kind: str, count: int = 1) -> None:
    """Actions of a type were accepted. To be called once their transaction has committed."""
    _accepted.labels(kind).inc(count)


def action_ended(kind: str, duration_s: float, error: str | None = None) -> None:
    """An action ended: completed, or errored with this code. To be called by the process that recorded its end."""
    _ended.labels(kind, "completed" if error is None else "errored", error or NO_ERROR).inc()
    _action_s.labels(kind).observe(max(0.0, duration_s))


# ---------------------------------------------------------------------------------------------------------- processes

_processes = _gauge("wherry_processes_alive", "Processes whose lease has not run out.", "role")
_heartbeat = _gauge(
    "wherry_oldest_heartbeat_age_seconds", "How long ago the quietest process that counts as alive was heard.", "role"
)
_takeovers = _counter("wherry_takeovers_total", "Actions that this process took over from a dead one.", "type")
_claims_lost = _counter(
    "wherry_claims_lost_total", "Actions that this process found taken over by another when it wanted to go on.", "type"
)


def taken_over(kind: str, count: int = 1) -> None:
    """This process took actions over that a dead one held."""
    _takeovers.labels(kind).inc(count)


def claim_lost(kind: str) -> None:
    """This process was fenced off: another one holds the action that it was at."""
    _claims_lost.labels(kind).inc()


# -------------------------------------------------------------------------------------------------------------- bytes

_moved_blocks = _counter("wherry_blocks_moved_total", "Blocks that were moved, by how.", "region", "kind")
_moved_bytes = _counter("wherry_block_bytes_moved_total", "Stored bytes of the blocks moved.", "region", "kind")
_reused_blocks = _counter("wherry_blocks_reused_total", "Blocks that were there already.", "region", "kind")
_reused_bytes = _counter("wherry_block_bytes_reused_total", "Stored bytes of the blocks reused.", "region", "kind")
_throttled = _counter("wherry_throttled_seconds_total", "Time that work was held back by a limit.", "region", "limit")


class Moves:
    """Counts the blocks that are moved in one way, into or out of one region."""

    def __init__(self, region: str, kind: Moved) -> None:
        self._moved = _moved_blocks.labels(region, kind), _moved_bytes.labels(region, kind)
        self._reused = _reused_blocks.labels(region, kind), _reused_bytes.labels(region, kind)

    def add(self, *, sent: int = 0, sent_bytes: int = 0, reused: int = 0, reused_bytes: int = 0) -> None:
        """So many blocks and stored bytes more."""
        if sent:
            self._moved[0].inc(sent)
            self._moved[1].inc(sent_bytes)
        if reused:
            self._reused[0].inc(reused)
            self._reused[1].inc(reused_bytes)


def throttled(region: str | None, limit: Limit, seconds: float) -> None:
    """Work waited so long for a limit."""
    _throttled.labels(region or NOWHERE, limit).inc(seconds)


# ------------------------------------------------------------------------------------------------------------- stores

_store_s = _histogram(
    "wherry_store_request_duration_seconds", "Calls of a region's storage.", "region", "operation", buckets=_STORE_S
)
_store_errors = _counter(
    "wherry_store_errors_total", "Calls of a region's storage that failed.", "region", "operation", "code"
)
_store_bytes = _counter(
    "wherry_store_bytes_total", "Bytes read from and written to a region's storage.", "region", "direction"
)

Operation = Literal["read", "size", "create", "write", "sync", "publish", "copy", "list", "delete", "sweep_unfinished"]
"""A call of ``storage.Backend`` or ``storage.Upload``."""


class StoreCalls:
    """Counts the calls of one region's storage."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._read = _store_bytes.labels(region, "read")
        self._written = _store_bytes.labels(region, "written")
        for operation in get_args(Operation):
            for kind in (StoreFull, StoreUnavailable):
                _store_errors.labels(region, operation, kind.id)

    @contextmanager
    def call(self, operation: Operation) -> Iterator[None]:
        """A call that lasts as long as the block; an error that leaves it counts, and goes on."""
        began = time.perf_counter()
        try:
            with self.part(operation):
                yield
        finally:
            _store_s.labels(self._region, operation).observe(time.perf_counter() - began)

    @contextmanager
    def part(self, operation: Operation) -> Iterator[None]:
        """A part of a call that is not timed; an error that leaves it counts, and goes on."""
        try:
            yield
        except Exception as error:
            _store_errors.labels(self._region, operation, code_of(error)).inc()
            raise

    def read(self, count: int) -> None:
        """So many bytes were read."""
        self._read.inc(count)

    def written(self, count: int) -> None:
        """So many bytes were written."""
        self._written.inc(count)


def code_of(error: BaseException) -> str:
    """The word that metrics and traces have for an error."""
    return error.id if isinstance(error, WherryError) else UNFORESEEN


# --------------------------------------------------------------------------------------------------- what is cleaned up

_freed_bytes = _counter("wherry_freed_bytes_total", "Bytes that were removed from a region.", "region", "by")
_freed_objects = _counter("wherry_freed_objects_total", "Objects that were removed from a region.", "region", "by")
_compacted = _counter("wherry_compact_written_bytes_total", "Bytes that compacting wrote anew.", "region")
_stored = _gauge("wherry_stored_bytes", "Bytes of a region's objects, as the catalog knows them.", "region")
_reclaimable = _gauge("wherry_reclaimable_bytes", "Bytes of a region's unreferenced objects.", "region")


def freed(region: str, by: Freer, *, objects: int, size_bytes: int) -> None:
    """Objects are gone from a region, and their bytes with them."""
    _freed_objects.labels(region, by).inc(objects)
    _freed_bytes.labels(region, by).inc(size_bytes)


def compacted(region: str, written_bytes: int) -> None:
    """Live blocks were written anew, so that what was around them can go."""
    _compacted.labels(region).inc(written_bytes)


# ------------------------------------------------------------------------------------------------------ scrub and heal

_checked_blocks = _counter("wherry_scrub_blocks_total", "Blocks that a scrub checked.", "region")
_checked_bytes = _counter("wherry_scrub_bytes_total", "Stored bytes that a scrub checked.", "region")
_faults = _counter("wherry_faults_found_total", "Blocks and objects that were found bad or missing.", "region", "code")
_healed = _counter("wherry_blocks_healed_total", "Blocks that were replaced by a good copy.", "region")
_check_age = _gauge(
    "wherry_oldest_check_age_seconds", "Age of a region's oldest check; what never was counts.", "region"
)
_damaged = _gauge("wherry_damaged_images", "Images that have a block without a good copy, in a region.", "region")


def scrubbed(region: str, *, blocks: int, size_bytes: int) -> None:
    """Blocks were checked, whatever came of it."""
    _checked_blocks.labels(region).inc(blocks)
    _checked_bytes.labels(region).inc(size_bytes)


def fault_found(region: str, error: BaseException) -> None:
    """A block or an object is not what it should be; by a scrub, or by the reader that met it."""
    _faults.labels(region, code_of(error)).inc()


def healed(region: str, blocks: int) -> None:
    """Blocks of a region that lay in something damaged lie in something sound."""
    _healed.labels(region).inc(blocks)


# -------------------------------------------------------------------------------------------------------- the catalog

_commit_s = _histogram("wherry_catalog_commit_duration_seconds", "Commits of the catalog.", buckets=_COMMIT_S)
_writers = _histogram("wherry_catalog_commit_writers", "Writers that shared a commit.", buckets=_WRITERS)
_turn_s = _histogram(
    "wherry_catalog_turn_seconds", "How long a change waited for its turn, and held it until the commit.", "part",
    buckets=_TURN_S,
)  # fmt: skip
_waited, _held = _turn_s.labels("waited"), _turn_s.labels("held")
_commit_errors = _counter("wherry_catalog_commit_errors_total", "Commits that the database did not take.")
_answers = _gauge("wherry_catalog_up", "1 if the catalog answered when this was read, or else 0.")


def committed(duration_s: float, writers: int) -> None:
    """A commit of so many writers together was taken by the database."""
    _commit_s.observe(duration_s)
    _writers.observe(writers)


def had_turn(*, waited_s: float, held_s: float) -> None:
    """A change of the catalog had its turn; others waited meanwhile."""
    _waited.observe(waited_s)
    _held.observe(held_s)


def commit_failed() -> None:
    """The database did not take a commit."""
    _commit_errors.inc()


# ------------------------------------------------------------------------------------------------------- looking at it


def expect(regions: Iterable[str], kinds: Iterable[str]) -> None:
    """Let the rare counters of these regions and types of actions begin at 0. To be called once, at the start.

    A series that first appears with its first event shows no increase: an alert on one would sleep through it.
    """
    for reason in get_args(TurnedAway):
        _turned_away.labels(reason)
    for kind in kinds:
        for counter in (_accepted, _takeovers, _claims_lost):
            counter.labels(kind)
    for region in regions:
        _healed.labels(region)
        for error in (BlockMissing, BlockCorrupt, ManifestMissing, ManifestCorrupt):
            _faults.labels(region, error.id)


@dataclass(frozen=True)
class ActionCount:
    """How many actions of a type are in progress in a region (None: in no particular one)."""

    type: str
    region: str | None
    waiting: int = 0
    running: int = 0


@dataclass(frozen=True)
class RegionState:
    """What a region has. ``oldest_check_age_s`` is None where nothing is there that could be checked."""

    stored_bytes: int = 0
    reclaimable_bytes: int = 0
    oldest_check_age_s: float | None = None
    damaged_images: int = 0


@dataclass(frozen=True)
class RoleState:
    """The processes of a role whose lease has not run out: ``worker`` for all that run actions, ``face`` for others."""

    alive: int
    oldest_heartbeat_age_s: float


@dataclass(frozen=True)
class Census:
    """What the service as a whole has, as the catalog says."""

    actions: Sequence[ActionCount] = ()
    oldest_waiting_s: float = 0.0
    roles: Mapping[str, RoleState] = field(default_factory=dict)
    regions: Mapping[str, RegionState] = field(default_factory=dict)


def exposition(census: Census | None = None) -> bytes:
    """All metrics in Prometheus' text format; without a census, the catalog counts as not answering."""
    return generate_latest(_All(census))


class _All:
    """What was counted here, and a census, as Prometheus collects them."""

    def __init__(self, census: Census | None) -> None:
        self._census = census

    def collect(self) -> Iterable[Metric]:
        yield from _registry.collect()
        yield _family(_answers, [((), 0.0 if self._census is None else 1.0)])
        if self._census is not None:
            yield from _families(self._census)


def _families(census: Census) -> Iterator[GaugeMetricFamily]:
    actions = [((one.type, one.region or NOWHERE), one) for one in census.actions]
    yield _family(_waiting, [(labels, one.waiting) for labels, one in actions])
    yield _family(_running, [(labels, one.running) for labels, one in actions])
    yield _family(_oldest, [((), census.oldest_waiting_s)])
    yield _family(_processes, [((role,), one.alive) for role, one in census.roles.items()])
    yield _family(_heartbeat, [((role,), one.oldest_heartbeat_age_s) for role, one in census.roles.items()])
    regions = [((slug,), one) for slug, one in census.regions.items()]
    yield _family(_stored, [(labels, one.stored_bytes) for labels, one in regions])
    yield _family(_reclaimable, [(labels, one.reclaimable_bytes) for labels, one in regions])
    ages = [(labels, one.oldest_check_age_s) for labels, one in regions]
    yield _family(_check_age, [(labels, age) for labels, age in ages if age is not None])
    yield _family(_damaged, [(labels, one.damaged_images) for labels, one in regions])


def _family(metric: Described, values: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric.name, metric.text, labels=metric.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family
