"""Backups on the wire: policies, windows, retention, and the clock by which tests live through months in seconds."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.contract.api.conftest import Api, Shelf

DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
HOURS = [0, 4, 8, 12, 16, 20]
ARGUMENTS = ("--test-mode", "--regions", "nyc3", "--no-public-images")
WEDNESDAY = "2031-03-05T10:30:00Z"


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def set_clock(api: Api, moment: str) -> None:
    """Let it be another time at the service."""
    assert api.post("/_wherry/clock", json={"now": moment}).status_code == 200


@contextmanager
def while_clock_is_set(api: Api, moment: str) -> Iterator[None]:
    """Set the clock while what falls due can't end; that call is answered afterwards."""
    setting = threading.Thread(target=set_clock, args=(api, moment))
    setting.start()
    while api.post("/_wherry/clock", json={}).json()["now"] < moment:
        threading.Event().wait(0.01)
    yield
    setting.join()


def backups_of(api: Api, droplet_id: int) -> list[Any]:
    """A Droplet's backups, newest first."""
    found: list[Any] = api.get(f"/v2/droplets/{droplet_id}/backups?per_page=200").json()["backups"]
    return found


def policy_of(api: Api, droplet_id: int) -> Any:
    """A Droplet's backup policy as it is read."""
    return api.get(f"/v2/droplets/{droplet_id}/backups/policy").json()["policy"]


def backup_actions(api: Api, droplet_id: int) -> list[Any]:
    """Every action that took a backup of a Droplet, the oldest first."""
    found = api.get(f"/v2/droplets/{droplet_id}/actions?per_page=200").json()["actions"]
    return [one for one in found[::-1] if one["type"] == "backup"]


# --------------------------------------------------------------------------------------------------------- policies


def test_the_plans_are_those_of_digitalocean(api: Api) -> None:
    """There are a weekly and a daily plan, with their windows, days and retention."""
    common = {"possible_window_starts": HOURS, "window_length_hours": 4, "possible_days": DAYS}

    assert api.get("/v2/droplets/backups/supported_policies").json() == {
        "supported_policies": [
            {"name": "weekly", "retention_period_days": 28, **common},
            {"name": "daily", "retention_period_days": 7, **common},
        ]
    }


def test_a_droplet_without_backups_says_only_so(api: Api) -> None:
    """Without backups, a policy is the Droplet's id and that there are none."""
    droplet = api.droplet()

    assert policy_of(api, droplet["id"]) == {"droplet_id": droplet["id"], "backup_enabled": False}
    assert "backups" not in droplet["features"]
    assert api.get("/v2/droplets/backups/policies").json() == {"policies": {}, "links": {}, "meta": {"total": 0}}
    assert backups_of(api, droplet["id"]) == []


def test_a_policy_is_read_as_it_counts(api: Api) -> None:
    """A policy is told with its window and retention, and stands in the Droplet and in the map of all."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(backups=True, backup_policy={"plan": "weekly", "weekday": "SUN", "hour": 20})
    api.droplet()

    window = {"start": "2031-03-09T20:00:00Z", "end": "2031-03-10T00:00:00Z"}
    policy = {"plan": "weekly", "weekday": "SUN", "hour": 20, "window_length_hours": 4, "retention_period_days": 28}
    record = {
        "droplet_id": droplet["id"], "backup_enabled": True, "backup_policy": policy, "next_backup_window": window,
    }  # fmt: skip
    assert policy_of(api, droplet["id"]) == record
    assert droplet["next_backup_window"] == window
    assert "backups" in droplet["features"]
    assert api.get("/v2/droplets/backups/policies").json() == {
        "policies": {str(droplet["id"]): record}, "links": {}, "meta": {"total": 1},
    }  # fmt: skip


def test_policies_come_by_pages(api: Api) -> None:
    """The map of policies is paged like a list."""
    made = {str(one["id"]) for one in api.create(names=["a", "b", "c"], backups=True).json()["droplets"]}

    first = api.get("/v2/droplets/backups/policies?per_page=2").json()
    second = api.get(first["links"]["pages"]["next"]).json()

    assert (len(first["policies"]), len(second["policies"])) == (2, 1)
    assert first["policies"].keys() | second["policies"].keys() == made
    assert first["meta"] == {"total": 3}


@pytest.mark.parametrize(
    ("asked", "kept", "window"),
    [
        (None, ("daily", None, 0), "2031-03-06T00:00:00Z"),
        ({}, ("daily", None, 0), "2031-03-06T00:00:00Z"),
        ({"plan": None, "weekday": None, "hour": None}, ("daily", None, 0), "2031-03-06T00:00:00Z"),
        ({"plan": "daily", "weekday": "", "hour": 12}, ("daily", None, 12), "2031-03-05T12:00:00Z"),
        ({"plan": "daily", "weekday": "MON", "hour": 8}, ("daily", None, 8), "2031-03-06T08:00:00Z"),
        ({"plan": "weekly"}, ("weekly", "SUN", 0), "2031-03-09T00:00:00Z"),
        ({"plan": "weekly", "weekday": "", "hour": 0}, ("weekly", "SUN", 0), "2031-03-09T00:00:00Z"),
        ({"plan": "weekly", "weekday": "WED", "hour": 8}, ("weekly", "WED", 8), "2031-03-12T08:00:00Z"),
        ({"plan": "weekly", "weekday": "WED", "hour": 16}, ("weekly", "WED", 16), "2031-03-05T16:00:00Z"),
        ({"plan": "weekly", "day": "FRI", "hour": 4}, ("weekly", "FRI", 4), "2031-03-07T04:00:00Z"),
        ({"plan": "weekly", "weekday": "sat"}, ("weekly", "SAT", 0), "2031-03-08T00:00:00Z"),
    ],
)
@pytest.mark.parametrize("kind", ["create", "enable_backups", "change_backup_policy"])
def test_a_policy_is_asked_for_in_several_ways(
    api: Api, kind: str, asked: Any, kept: tuple[str, str | None, int], window: str
) -> None:
    """A policy is daily unless told, takes godo's empty weekday and the description's ``day``, and counts at once."""
    set_clock(api, WEDNESDAY)
    if kind == "create":
        droplet = api.droplet(backups=True, backup_policy=asked)["id"]
    else:
        weekly: dict[str, Any] = {"backups": True, "backup_policy": {"plan": "weekly"}}
        droplet = api.droplet(**weekly if kind == "change_backup_policy" else {})["id"]
        # A change must say what it asks for.
        asked = {} if asked is None and kind == "change_backup_policy" else asked
        assert api.done(droplet, kind, backup_policy=asked)["status"] == "completed"

    policy = policy_of(api, droplet)

    told = policy["backup_policy"]
    assert (told["plan"], told.get("weekday"), told["hour"]) == kept
    assert told["retention_period_days"] == {"daily": 7, "weekly": 28}[kept[0]]
    assert policy["next_backup_window"]["start"] == window


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ({"plan": "monthly"}, "Backup policy plan is 'monthly'; it may be daily or weekly"),
        ({"plan": "daily", "hour": 24}, "Backup policy hour is 24; it may be 0, 4, 8, 12, 16, 20"),
        ({"plan": "weekly", "weekday": "Sunday"},
         "Backup policy weekday is 'Sunday'; it may be SUN, MON, TUE, WED, THU, FRI, SAT"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["enable_backups", "change_backup_policy"])
def test_a_policy_that_can_not_be_is_refused(api: Api, kind: str, policy: dict[str, Any], text: str) -> None:
    """Plan, hour and weekday are DigitalOcean's; any other is refused, and the old one stays."""
    droplet = api.droplet(backups=True)["id"]
    before = policy_of(api, droplet)

    assert refusal(api.do(droplet, kind, backup_policy=policy)) == (422, text)
    assert policy_of(api, droplet) == before


def test_only_a_policy_that_there_is_can_be_changed(api: Api) -> None:
    """A change needs backups that are enabled, and a policy."""
    without, backed_up = api.droplet()["id"], api.droplet(backups=True)["id"]

    assert refusal(api.do(without, "change_backup_policy", backup_policy={"plan": "daily"})) == (
        422, "Backups are not enabled on this Droplet.",
    )  # fmt: skip
    assert refusal(api.do(backed_up, "change_backup_policy")) == (422, "Backup policy can't be blank")


def test_a_policy_without_backups_is_refused(api: Api) -> None:
    """A policy counts only where backups are enabled; one that says nothing asks for nothing."""
    policy: dict[str, Any] = {"plan": "weekly", "weekday": "", "hour": 0}
    text = "backup_policy: it needs backups to be true"
    assert refusal(api.create(backups=False, backup_policy=policy)) == (422, text)
    nothing = {**policy, "plan": ""}
    assert api.droplet(backups=False, backup_policy=nothing)["next_backup_window"] is None


def test_a_policy_may_be_said_as_it_was_read(api: Api) -> None:
    """The hours of a window and the days of retention, which a reply has, may be sent again."""
    droplet = api.droplet(backups=True)["id"]
    policy = api.get(f"/v2/droplets/{droplet}/backups/policy").json()["policy"]["backup_policy"]
    assert api.done(droplet, "change_backup_policy", backup_policy=policy)["status"] == "completed"


# --------------------------------------------------------------------------------------------- windows and retention


def test_daily_backups_are_taken_each_day_and_kept_for_seven(api: Api) -> None:
    """A month of daily backups leaves one for each of the last seven days, named by their days."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(name="web-01", backups=True, backup_policy={"plan": "daily", "hour": 4})["id"]

    now = api.advance(days=30)

    assert now.startswith("2031-04-04T10:30")
    found = backups_of(api, droplet)
    assert [one["name"] for one in found] == [f"web-01 2031-{day}" for day in (
        "04-04", "04-03", "04-02", "04-01", "03-31", "03-30", "03-29",
    )]  # fmt: skip
    for one in found:
        assert one["type"] == "backup"
        assert one["created_at"][11:].startswith("04:00:")
        assert (one["regions"], one["min_disk_size"]) == (["nyc3"], 25)
    actions = backup_actions(api, droplet)
    assert [one["started_at"][:10] for one in actions] == [
        (datetime(2031, 3, 6, tzinfo=UTC) + timedelta(days=ahead)).strftime("%Y-%m-%d") for ahead in range(30)
    ]
    assert {(one["status"], one["resource_id"]) for one in actions} == {("completed", droplet)}
    assert api.seen(droplet)["backup_ids"] == sorted(one["id"] for one in found)
    assert api.seen(droplet)["next_backup_window"]["start"] == "2031-04-05T04:00:00Z"


def test_weekly_backups_are_taken_on_their_day_and_kept_for_four_weeks(api: Api) -> None:
    """Half a year of weekly backups leaves four, each of the day that was chosen."""
    set_clock(api, WEDNESDAY)
    policy = {"plan": "weekly", "weekday": "FRI", "hour": 20}
    droplet = api.droplet(backups=True, backup_policy=policy)["id"]

    api.advance(days=182)

    found = backups_of(api, droplet)
    assert len(backup_actions(api, droplet)) == 26
    assert len(found) == 4
    moments = [datetime.fromisoformat(one["created_at"]) for one in found]
    assert {(one.strftime("%a"), one.hour) for one in moments} == {("Fri", 20)}
    assert [(late - early).days for late, early in pairwise(moments)] == [7, 7, 7]


def test_each_backup_has_the_bytes_of_its_day(api: Api) -> None:
    """A backup is the disk as it was; a later change of the disk leaves it alone."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(backups=True)["id"]
    for day in range(3):
        put = api.put(f"/v2/droplets/{droplet}/disk", content=f"day {day}".encode() * 1000)
        api.ended(put.json()["action"]["id"])
        api.advance(days=1)

    exports = [api.get(f"/v2/images/{one['id']}/export").content[:5] for one in backups_of(api, droplet)]

    assert exports == [b"day 2", b"day 1", b"day 0"]


def test_a_change_of_policy_counts_for_the_backups_to_come(api: Api) -> None:
    """What was taken under the old policy keeps its time; what is taken afterwards has the new one's."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(backups=True, backup_policy={"plan": "weekly", "weekday": "THU"})["id"]
    api.advance(days=1)
    api.done(droplet, "change_backup_policy", backup_policy={"plan": "daily", "hour": 8})

    api.advance(days=20)

    found = [one["created_at"][:10] for one in backups_of(api, droplet)]
    assert found == [f"2031-03-{day}" for day in range(26, 19, -1)] + ["2031-03-06"]
    api.advance(days=9)
    assert "2031-03-06" not in [one["created_at"][:10] for one in backups_of(api, droplet)]


def test_windows_that_passed_while_the_service_was_off_are_made_up_for_once(api: Api) -> None:
    """When the time has leapt over many windows, one backup is taken at once, and the next one in its window."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(backups=True)["id"]

    set_clock(api, "2031-05-05T10:30:00Z")

    assert [one["name"] for one in backups_of(api, droplet)] == ["web-1 2031-05-05"]
    assert api.seen(droplet)["next_backup_window"]["start"] == "2031-05-06T00:00:00Z"


def test_a_backup_waits_until_its_droplet_is_free(api: Api, occupy: Callable[[], None], shelf: Shelf) -> None:
    """A Droplet that is busy when its window opens is backed up as soon as it is free."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(backups=True)["id"]
    occupy()
    running = api.do(droplet, "reboot").json()["action"]["id"]

    with while_clock_is_set(api, "2031-03-06T00:00:01Z"):
        before = backup_actions(api, droplet)
        shelf.released.set()

    assert before == []
    assert api.ended(running)["status"] == "completed"
    assert [one["name"] for one in backups_of(api, droplet)] == ["web-1 2031-03-06"]


def test_a_backup_that_errored_is_tried_again(api: Api) -> None:
    """No window is missed because a store was away for a moment."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(backups=True)["id"]
    api.post("/_wherry/faults", json={"action": "backup", "times": 2}).raise_for_status()

    api.advance(days=2)

    actions = backup_actions(api, droplet)
    assert [one["status"] for one in actions] == ["errored", "errored", "completed", "completed"]
    assert [one["started_at"][:15] for one in actions] == [
        "2031-03-06T00:0", "2031-03-06T00:1", "2031-03-06T00:2", "2031-03-07T00:0",
    ]  # fmt: skip
    assert len(backups_of(api, droplet)) == 2


@pytest.mark.parametrize("policy", [{"plan": "daily", "hour": 0}, {"plan": "weekly", "weekday": "FRI"}])
def test_a_backup_that_is_to_be_tried_again_outlives_a_change_of_policy(api: Api, policy: dict[str, Any]) -> None:
    """Changing the policy, be it to the same one, takes no backup away that its window owes."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(backups=True)["id"]
    api.post("/_wherry/faults", json={"action": "backup"}).raise_for_status()
    set_clock(api, "2031-03-06T00:00:00Z")
    assert backups_of(api, droplet) == []

    api.done(droplet, "change_backup_policy", backup_policy=policy)
    assert api.seen(droplet)["next_backup_window"]["start"] == "2031-03-07T00:00:00Z"
    api.advance(minutes=11)

    assert [one["name"] for one in backups_of(api, droplet)] == ["web-1 2031-03-06"]


def test_a_backup_is_taken_when_a_test_asks(api: Api) -> None:
    """The control takes a backup whether backups are enabled or not; its retention is the policy's, or daily."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(name="web")["id"]

    begun = api.post(f"/_wherry/droplets/{droplet}/backup")
    done = api.ended(begun.json()["action"]["id"])

    (backup,) = backups_of(api, droplet)
    assert begun.status_code == 201
    assert (done["type"], done["resource_id"], done["resource_type"]) == ("backup", droplet, "droplet")
    assert (backup["name"], backup["created_at"]) == ("web 2031-03-05", done["started_at"])


# ----------------------------------------------------------------------------------------------------------- expire


def test_what_expires_is_told_before_it_is_done(api: Api, occupy: Callable[[], None], shelf: Shelf) -> None:
    """A dry run names the backups whose time is over, and no others; then expire lets exactly these go."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(name="web")["id"]
    old, newer, newest = (api.back_up(droplet)["id"] for _ in range(3))
    assert api.post("/v2/expire", json={"dry_run": True}).json() == {"plan": []}
    occupy()

    with while_clock_is_set(api, "2031-03-12T10:31:00Z"):
        plan = api.post("/v2/expire", json={"dry_run": True})
        begun = api.post("/v2/expire", json={})
        still = [one["id"] for one in backups_of(api, droplet)]
        shelf.released.set()
    done = api.ended(begun.json()["action"]["id"])

    assert (plan.status_code, begun.status_code) == (200, 201)
    assert [one["image_id"] for one in plan.json()["plan"]] == [old, newer]
    assert plan.json()["plan"][0].keys() == {"image_id", "name", "droplet_id", "created_at", "expires_at"}
    assert {(one["name"], one["droplet_id"]) for one in plan.json()["plan"]} == {("web 2031-03-05", droplet)}
    for one in plan.json()["plan"]:
        kept = datetime.fromisoformat(one["expires_at"]) - datetime.fromisoformat(one["created_at"])
        assert kept == timedelta(days=7)
    assert still == [newest, newer, old]
    assert (done["type"], done["status"], done["resource_id"]) == ("expire", "completed", None)
    assert [one["id"] for one in backups_of(api, droplet)] == [newest]
    assert api.get(f"/v2/images/{old}").status_code == 404


def test_the_newest_backup_stays_however_old_it_is(api: Api) -> None:
    """A Droplet that is no longer backed up keeps its newest backup."""
    droplet = api.droplet()["id"]
    older, newest = api.back_up(droplet), api.back_up(droplet)

    api.advance(days=3650)

    assert [one["id"] for one in backups_of(api, droplet)] == [newest["id"]]
    assert api.get(f"/v2/images/{older['id']}").status_code == 404


def test_the_clock_waits_for_what_runs(api: Api) -> None:
    """Backups that are enabled just before the clock is moved are taken on the way."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet()["id"]
    begun = api.post(f"/v2/droplets/{droplet}/actions", json={"type": "enable_backups"})
    assert (begun.status_code, begun.json()["action"]["status"]) == (201, "in-progress")
    api.advance(days=2)
    assert [one["name"] for one in backups_of(api, droplet)] == ["web-1 2031-03-07", "web-1 2031-03-06"]


def test_a_converted_backup_stays_for_ever(api: Api) -> None:
    """A backup that became a snapshot leaves the backups and outlives any retention, with its bytes."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(api.make("custom", content=b"for ever")["id"], backups=True)["id"]
    api.advance(days=2)
    kept = backups_of(api, droplet)[0]
    converted = api.ended(api.act(kept["id"], type="convert").json()["id"])

    assert (converted["status"], converted["resource_type"]) == ("completed", "image")
    assert kept["id"] not in [one["id"] for one in backups_of(api, droplet)]
    snapshots = api.get(f"/v2/droplets/{droplet}/snapshots").json()["snapshots"]
    assert snapshots == [{**kept, "type": "snapshot"}]
    assert api.seen(droplet)["snapshot_ids"] == [kept["id"]]
    set_clock(api, "2131-03-05T00:00:00Z")
    api.advance(days=30)
    assert api.get(f"/v2/images/{kept['id']}").json()["image"].items() >= {**kept, "type": "snapshot"}.items()
    assert [one["id"] for one in api.get("/v2/snapshots").json()["snapshots"]] == [str(kept["id"])]
    assert api.get(f"/v2/images/{kept['id']}/export").content.startswith(b"for ever")
    assert api.delete(f"/v2/droplets/{droplet}").status_code == 204
    assert api.get(f"/v2/images/{kept['id']}").status_code == 200


def test_disabling_backups_deletes_them(api: Api) -> None:
    """disable_backups deletes what was taken, but for what was converted, and takes no more."""
    set_clock(api, WEDNESDAY)
    droplet = api.droplet(backups=True)["id"]
    api.advance(days=4)
    converted = backups_of(api, droplet)[1]["id"]
    api.ended(api.act(converted, type="convert").json()["id"])
    others = [one["id"] for one in backups_of(api, droplet)]

    api.done(droplet, "disable_backups")

    seen = api.seen(droplet)
    assert len(others) == 3
    assert (seen["backup_ids"], seen["next_backup_window"]) == ([], None)
    assert "backups" not in seen["features"]
    assert policy_of(api, droplet) == {"droplet_id": droplet, "backup_enabled": False}
    assert {api.get(f"/v2/images/{one}").status_code for one in others} == {404}
    assert api.get(f"/v2/images/{converted}").status_code == 200
    api.advance(days=10)
    assert backups_of(api, droplet) == []


# ------------------------------------------------------------------------------------------------------------ clock


def test_the_clock_is_read_and_moved(api: Api) -> None:
    """Asked for nothing, the clock only tells the time; it goes on from wherever it is set."""
    assert api.post("/_wherry/clock", json={"now": "2031-03-05T12:30:00+02:00"}).json() == {"now": WEDNESDAY}
    assert api.advance(hours=1).startswith("2031-03-05T11:30:0")
    assert api.post("/_wherry/clock", json={}).json()["now"].startswith("2031-03-05T11:30:0")
    assert api.make()["created_at"].startswith("2031-03-05T11:30:")
    api.post("/_wherry/reset")
    assert api.post("/_wherry/clock").json()["now"] < "2031"


FAR = "The clock may be set to times from 1970 to 2500"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"now": WEDNESDAY, "advance_s": 1}, "now and advance_s exclude each other"),
        ({"advance_s": -1}, "advance_s is -1.0; it may be 0 to 1581120000"),
        ({"advance_s": 1e300}, "advance_s is 1e+300; it may be 0 to 1581120000"),
        ({"now": "9999-12-31T23:59:59Z"}, FAR),
        ({"now": "0001-01-01T00:00:00+14:00"}, FAR),
        ({"now": "1969-12-31T23:59:59Z"}, FAR),
    ],
)
def test_a_time_that_can_not_be_is_refused(api: Api, body: dict[str, Any], text: str) -> None:
    """A time at which dates end would leave nothing that works; it is refused, and the clock stays."""
    assert refusal(api.post("/_wherry/clock", json=body)) == (422, text)
    assert api.create(backups=True).status_code == 202


def test_the_clock_can_not_be_moved_beyond_the_latest_time_bit_by_bit(api: Api) -> None:
    """Moving ahead ends where setting does."""
    set_clock(api, "2499-12-31T00:00:00Z")

    assert refusal(api.post("/_wherry/clock", json={"advance_s": 90_000})) == (422, FAR)


# ---------------------------------------------------------------------------------------------------------- restart


def test_no_restart_misses_or_doubles_a_backup(tmp_path: Path, connect: Callable[[str], Api]) -> None:
    """Killed again and again while days pass, a service keeps its clock and takes exactly one backup each day."""
    with ServiceProcess(tmp_path / "data", arguments=ARGUMENTS) as service:
        api = connect(service.url)
        set_clock(api, WEDNESDAY)
        droplet = api.droplet(backups=True)["id"]
        for _ in range(3):
            dying = threading.Timer(0.35, service.kill)
            dying.start()
            with suppress(httpx2.TransportError):
                api.advance(days=40)
            dying.join()
            service.start()
        left = datetime.fromisoformat("2031-04-15T00:30:00Z") - datetime.fromisoformat(api.advance(seconds=0))
        api.advance(seconds=left.total_seconds())

        actions = backup_actions(api, droplet)

    assert left.total_seconds() > 0
    assert {one["status"] for one in actions} == {"completed"}
    assert [one["started_at"][:10] for one in actions] == [
        (datetime(2031, 3, 6, tzinfo=UTC) + timedelta(days=ahead)).strftime("%Y-%m-%d") for ahead in range(41)
    ]


def test_a_restart_keeps_the_clock(tmp_path: Path, connect: Callable[[str], Api]) -> None:
    """A service that is killed goes on at the time that it was set to."""
    with ServiceProcess(tmp_path / "data", arguments=ARGUMENTS) as service:
        set_clock(connect(service.url), WEDNESDAY)
        service.kill()
        service.start()

        now = connect(service.url).advance(seconds=0)

    assert now.startswith("2031-03-05T10:3")
