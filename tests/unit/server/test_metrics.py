"""The list of metrics: true to its documentation, readable by Prometheus, and moved by what it says."""

from __future__ import annotations

import re
from inspect import isfunction
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.faults import Flaky

from wherry.errors import BlockMissing, StoreFull
from wherry.server.actions.pacing import Pacing
from wherry.server.rules.dispatch import Lane, Limits, Rules
from wherry.server.storage import MemoryBackend, Metered, MeteredWatcher
from wherry.server.telemetry import metrics
from wherry.server.telemetry.metrics import METRICS, ActionCount, Census, Moves, RegionState, RoleState, exposition

if TYPE_CHECKING:
    from collections.abc import Callable

OPERATE = Path(__file__).parents[3] / "docs" / "how-to" / "operate.md"
ROW = re.compile(r"^\| `(wherry_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
IN_USE = re.compile(r"\bwherry_[a-z_]+\b")
CENSUS = Census(
    actions=(ActionCount("transfer", "nyc3", waiting=3, running=2), ActionCount("expire", None, waiting=1)),
    oldest_waiting_s=12.5,
    roles={"worker": RoleState(alive=2, oldest_heartbeat_age_s=1.5)},
    regions={"nyc3": RegionState(100, 40, 86400.0, 1), "ams3": RegionState()},
)


def samples(census: Census | None = None) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All that is shown, by name and labels."""
    families = text_string_to_metric_families(exposition(census).decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def value(name: str, census: Census | None = None, /, **labels: str) -> float:
    """What a metric shows; 0 for what was never moved."""
    return samples(census).get((name, tuple(sorted(labels.items()))), 0.0)


def moved(act: Callable[[], object], name: str, /, **labels: str) -> float:
    """By how much an act moves a metric."""
    before = value(name, **labels)
    act()
    return value(name, **labels) - before


def documented(page: str) -> list[metrics.Described]:
    """The metrics as a page's table has them."""
    return [
        metrics.Described(name, kind, text.strip(), tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, text in ROW.findall(page)
    ]


def test_the_page_for_operators_has_every_metric_as_it_is() -> None:
    """The table in operate.md is the list, row by row: name, kind, labels and what it is."""
    assert documented(OPERATE.read_text()) == METRICS


def test_a_table_that_lags_behind_is_seen() -> None:
    """Control: a metric that is left out, or has another label, makes the tables differ."""
    page = OPERATE.read_text()
    first = next(line for line in page.splitlines() if ROW.match(line))
    assert documented(page.replace(first, "")) != METRICS
    assert documented(page.replace("`method`, `call`", "`method`")) != METRICS


def test_the_page_for_operators_speaks_of_no_other_metric() -> None:
    """Every wherry_ name in operate.md, also in its queries, is a metric that there is."""
    known = {one.name for one in METRICS}
    known |= {one.name + end for one in METRICS if one.kind == "histogram" for end in ("_bucket", "_sum", "_count")}
    assert {name for name in IN_USE.findall(OPERATE.read_text()) if name not in known} == set()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_rules(metric: metrics.Described) -> None:
    """Names begin with wherry_, counters end in _total, nothing else does, and units are base units."""
    assert metric.name.startswith("wherry_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(ms|millis|minutes|hours|days|kb|mb|mib|gib|percent)(_|$)", metric.name)
    assert metric.text.endswith(".")


def test_names_are_used_once() -> None:
    """No two metrics have the same name."""
    assert len({one.name for one in METRICS}) == len(METRICS)


def test_prometheus_reads_all_of_it() -> None:
    """What is shown has a family for each metric of the list, of its kind and with its text, and none besides."""
    shown = {one.name: one for one in text_string_to_metric_families(exposition(CENSUS).decode())}
    expected = {one.name.removesuffix("_total"): one for one in METRICS}
    assert {name: (one.type, one.documentation) for name, one in shown.items()} == {
        name: (one.kind, one.text) for name, one in expected.items()
    }


def test_a_census_is_shown_as_it_is() -> None:
    """Gauges have the values of the census, with its regions, types and roles."""
    assert value("wherry_catalog_up", CENSUS) == 1
    assert value("wherry_actions_waiting", CENSUS, type="transfer", region="nyc3") == 3
    assert value("wherry_actions_running", CENSUS, type="transfer", region="nyc3") == 2
    assert value("wherry_actions_waiting", CENSUS, type="expire", region="none") == 1
    assert value("wherry_oldest_waiting_action_age_seconds", CENSUS) == 12.5
    assert value("wherry_processes_alive", CENSUS, role="worker") == 2
    assert value("wherry_oldest_heartbeat_age_seconds", CENSUS, role="worker") == 1.5
    assert value("wherry_stored_bytes", CENSUS, region="nyc3") == 100
    assert value("wherry_reclaimable_bytes", CENSUS, region="nyc3") == 40
    assert value("wherry_oldest_check_age_seconds", CENSUS, region="nyc3") == 86400
    assert value("wherry_damaged_images", CENSUS, region="nyc3") == 1
    assert ("wherry_oldest_check_age_seconds", (("region", "ams3"),)) not in samples(CENSUS)


def test_without_a_census_only_the_catalog_is_told_of() -> None:
    """Where the catalog does not answer, no gauge pretends to know."""
    shown = {name for name, _ in samples(None)}
    assert "wherry_catalog_up" in shown
    assert value("wherry_catalog_up") == 0
    assert not shown & {one.name for one in METRICS if one.kind == "gauge"} - {"wherry_catalog_up"}


ACTS: list[tuple[Callable[[], object], str, dict[str, str], float]] = [
    (lambda: metrics.request_answered("GET", "images.get", 200, 0.1), "wherry_http_requests_total",
     {"method": "GET", "call": "images.get", "status": "200"}, 1),
    (lambda: metrics.request_answered("BREW", "unknown", 405, 0.1), "wherry_http_requests_total",
     {"method": "other", "call": "unknown", "status": "405"}, 1),
    (lambda: metrics.request_answered("GET", "images.get", 200, 0.3), "wherry_http_request_duration_seconds_sum",
     {"method": "GET", "call": "images.get"}, 0.3),
    (lambda: metrics.turned_away("host"), "wherry_http_turned_away_total", {"reason": "host"}, 1),
    (lambda: metrics.rate_limited("hour"), "wherry_http_rate_limited_total", {"window": "hour"}, 1),
    (lambda: metrics.action_accepted("transfer", 2), "wherry_actions_accepted_total", {"type": "transfer"}, 2),
    (lambda: metrics.action_ended("transfer", 4.0), "wherry_actions_ended_total",
     {"type": "transfer", "status": "completed", "code": "none"}, 1),
    (lambda: metrics.action_ended("import", 4.0, "store_full"), "wherry_actions_ended_total",
     {"type": "import", "status": "errored", "code": "store_full"}, 1),
    (lambda: metrics.action_ended("transfer", 4.0), "wherry_action_duration_seconds_sum", {"type": "transfer"}, 4),
    (lambda: metrics.taken_over("transfer", 3), "wherry_takeovers_total", {"type": "transfer"}, 3),
    (lambda: metrics.claim_lost("transfer"), "wherry_claims_lost_total", {"type": "transfer"}, 1),
    (lambda: metrics.throttled("nyc3", "bytes", 2.5), "wherry_throttled_seconds_total",
     {"region": "nyc3", "limit": "bytes"}, 2.5),
    (lambda: metrics.throttled(None, "bytes", 1), "wherry_throttled_seconds_total",
     {"region": "none", "limit": "bytes"}, 1),
    (lambda: metrics.had_turn(waited_s=0.5, held_s=0.25), "wherry_catalog_turn_seconds_sum", {"part": "held"}, 0.25),
    (lambda: metrics.had_turn(waited_s=0.5, held_s=0.25), "wherry_catalog_turn_seconds_sum", {"part": "waited"}, 0.5),
    (lambda: metrics.freed("nyc3", "collect", objects=2, size_bytes=500), "wherry_freed_bytes_total",
     {"region": "nyc3", "by": "collect"}, 500),
    (lambda: metrics.freed("nyc3", "compact", objects=2, size_bytes=500), "wherry_freed_objects_total",
     {"region": "nyc3", "by": "compact"}, 2),
    (lambda: metrics.compacted("nyc3", 70), "wherry_compact_written_bytes_total", {"region": "nyc3"}, 70),
    (lambda: metrics.scrubbed("nyc3", blocks=5, size_bytes=50), "wherry_scrub_blocks_total", {"region": "nyc3"}, 5),
    (lambda: metrics.scrubbed("nyc3", blocks=5, size_bytes=50), "wherry_scrub_bytes_total", {"region": "nyc3"}, 50),
    (lambda: metrics.fault_found("nyc3", BlockMissing("gone")), "wherry_faults_found_total",
     {"region": "nyc3", "code": "block_missing"}, 1),
    (lambda: metrics.healed("nyc3", 2), "wherry_blocks_healed_total", {"region": "nyc3"}, 2),
    (lambda: metrics.committed(0.25, 3), "wherry_catalog_commit_duration_seconds_sum", {}, 0.25),
    (lambda: metrics.committed(0.25, 3), "wherry_catalog_commit_writers_sum", {}, 3),
    (metrics.commit_failed, "wherry_catalog_commit_errors_total", {}, 1),
    (lambda: Moves("nyc3", "imported").add(sent=2, sent_bytes=9), "wherry_block_bytes_moved_total",
     {"region": "nyc3", "kind": "imported"}, 9),
    (lambda: Moves("nyc3", "imported").add(reused=2, reused_bytes=9), "wherry_blocks_reused_total",
     {"region": "nyc3", "kind": "imported"}, 2),
]  # fmt: skip


@pytest.mark.parametrize(("act", "name", "labels", "by"), ACTS, ids=[f"{n}-{i}" for i, (_, n, _, _) in enumerate(ACTS)])
def test_each_act_moves_its_metric(act: Callable[[], object], name: str, labels: dict[str, str], by: float) -> None:
    """Each function of the list moves the metric that it is for, by what it was told."""
    assert moved(act, name, **labels) == pytest.approx(by)


def test_each_act_has_someone_who_does_it() -> None:
    """What moves a metric is called by the service: a metric that is never moved is none."""
    package = Path(metrics.__file__).parents[1]
    code = "\n".join(path.read_text("utf-8") for path in package.rglob("*.py") if path != Path(metrics.__file__))
    reading = {"exposition", "code_of"}
    acts = {
        name for name, each in vars(metrics).items()
        if isfunction(each) and each.__module__ == metrics.__name__ and not name.startswith("_")
    } - reading  # fmt: skip
    assert len(acts) > 10
    assert not [name for name in sorted(acts) if not re.search(rf"\b{name}\b", code)]


def test_a_transfer_that_is_held_back_tells_how_long() -> None:
    """What a write waits for a limit of bytes a second counts for the region that it goes to."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    lane = Lane(is_background=False, account_id=1, source="ams3", target="nyc3")
    pacing = Pacing(Rules({"nyc3": Limits(bytes_per_s=1 << 20)}), clock=lambda: now[0], sleep=sleep)
    pacing.heed(7, [(7, "transfer", lane)])
    paced = pacing.paced(MemoryBackend(), lane, lambda: None)

    def write() -> None:
        with paced.create() as upload:
            upload.write(bytes(3 << 20))

    by = moved(write, "wherry_throttled_seconds_total", region="nyc3", limit="bytes")
    assert by == pytest.approx(now[0])
    assert by > 2


def test_rare_counters_begin_at_zero() -> None:
    """What an alert looks for is there before it happens, or its first time would show no increase."""
    metrics.expect(["lon1"], ["heal"])
    Metered(MemoryBackend(), "lon1")
    shown = samples()
    for name, labels in (
        ("wherry_blocks_healed_total", (("region", "lon1"),)),
        ("wherry_faults_found_total", (("code", "block_corrupt"), ("region", "lon1"))),
        ("wherry_takeovers_total", (("type", "heal"),)),
        ("wherry_claims_lost_total", (("type", "heal"),)),
        ("wherry_store_errors_total", (("code", "store_full"), ("operation", "sync"), ("region", "lon1"))),
    ):
        assert shown[name, labels] == 0


# ------------------------------------------------------------------------------------------------------------- storage


class Told:
    """A watcher that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[tuple[int, int, int, int]] = []

    def advance(self, *, sent: int = 0, sent_bytes: int = 0, reused: int = 0, reused_bytes: int = 0) -> None:
        self.said.append((sent, sent_bytes, reused, reused_bytes))


def test_a_counted_watcher_counts_and_passes_on() -> None:
    """What a copy tells its watcher is counted for its region, and the watcher hears of it."""
    told = Told()
    watcher = MeteredWatcher(told, "ams3", "copied")
    by = moved(lambda: watcher.advance(sent=2, sent_bytes=7), "wherry_blocks_moved_total", region="ams3", kind="copied")
    watcher.advance(reused=1, reused_bytes=3)
    assert by == 2
    assert told.said == [(2, 7, 0, 0), (0, 0, 1, 3)]


def test_a_measured_backend_counts_bytes_and_calls() -> None:
    """What is written and read is counted in bytes, and each call by its name."""
    backend = Metered(MemoryBackend(), "fra1")

    def act() -> None:
        with backend.create() as upload:
            upload.write(b"one", b"two")
            upload.sync()
            upload.publish("packs/ab/abcd")
        backend.read("packs/ab/abcd", 1, memoryview(bytearray(4)))
        assert list(backend.list("packs/")) == [("packs/ab/abcd", 6)]
        assert backend.size("packs/ab/abcd") == 6
        backend.delete("packs/ab/abcd")

    before = samples()
    act()
    after = samples()

    def by(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after.get(key, 0.0) - before.get(key, 0.0)

    assert by("wherry_store_bytes_total", region="fra1", direction="written") == 6
    assert by("wherry_store_bytes_total", region="fra1", direction="read") == 4
    for operation in ("create", "write", "sync", "publish", "read", "list", "size", "delete"):
        assert by("wherry_store_request_duration_seconds_count", region="fra1", operation=operation) == 1, operation


@pytest.mark.parametrize("call", ["write", "sync", "publish", "create"])
def test_a_measured_backend_counts_errors(call: str) -> None:
    """An error is counted under its code and its call, and reaches the caller."""
    backend = Metered(Flaky(MemoryBackend(), call, 1, StoreFull("no room")), "fra1")

    def act() -> None:
        with pytest.raises(StoreFull), backend.create() as upload:
            upload.write(b"one")
            upload.sync()
            upload.publish("packs/ab/abcd")

    labels = {"region": "fra1", "operation": call, "code": "store_full"}
    assert moved(act, "wherry_store_errors_total", **labels) == 1


def test_what_the_caller_does_wrong_is_no_error_of_the_store() -> None:
    """An error that a caller raises between two calls of an upload is not counted."""
    backend = Metered(MemoryBackend(), "fra1")

    def errors() -> float:
        return sum(count for (name, _), count in samples().items() if name == "wherry_store_errors_total")

    before = errors()
    with pytest.raises(RuntimeError), backend.create():
        raise RuntimeError
    assert errors() == before
