from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
import httpx2
import pytest
from click.testing import CliRunner

from wherry import Client, ConnectionFailed
from wherry.cli import wherry
from wherry.cli.output import COLUMNS, ActionView, describe
from wherry.models import Action, Progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AT = "2026-01-02T03:04:05Z"
IMAGE = {"id": 7, "name": "13 x64", "type": "snapshot", "distribution": "Debian", "regions": ["nyc3"]}
DROPLET = {
    "id": 5, "name": "web", "memory": 1024, "vcpus": 1, "disk": 25, "locked": False, "status": "active",
    "created_at": AT, "image": IMAGE, "size_slug": "s-1vcpu-1gb", "region": {"name": "New York 3", "slug": "nyc3"},
    "size": {"slug": "s-1vcpu-1gb", "memory": 1024, "vcpus": 1, "disk": 25, "transfer": 1.0, "price_monthly": 6.0,
             "price_hourly": 0.009},
    "networks": {"v4": [
        {"ip_address": "10.1.0.2", "netmask": "255.255.0.0", "gateway": "10.1.0.1", "type": "private"},
        {"ip_address": "192.0.2.7", "netmask": "255.255.255.0", "gateway": "192.0.2.1", "type": "public"},
    ]},
    "tags": ["a", "b"], "vpc_uuid": "v",
}  # fmt: skip
ACTION = {"id": 9, "status": "completed", "type": "snapshot", "started_at": AT, "resource_id": 7}
LINK = {"id": 9, "rel": "create", "href": "http://service.test/v2/actions/9"}
COUNT = {"count": 0}
TAG = {
    "name": "web",
    "resources": {"count": 3, "droplets": {"count": 2}, "images": {"count": 1}, "volumes": COUNT,
                  "volume_snapshots": COUNT, "databases": COUNT},
}  # fmt: skip
KEY = {"id": 3, "fingerprint": "aa:bb", "public_key": "ssh-ed25519 AAAA", "name": "k"}
POLICY = {
    "droplet_id": 5, "backup_enabled": True,
    "backup_policy": {"plan": "weekly", "weekday": "SUN", "hour": 4, "retention_period_days": 28},
    "next_backup_window": {"start": AT, "end": "2026-01-02T07:04:05Z"},
}  # fmt: skip
ACCOUNT = {
    "droplet_limit": 10, "floating_ip_limit": 0, "email": "a@b.c", "uuid": "u", "email_verified": True,
    "status": "active", "status_message": "", "team": {"uuid": "team-1", "name": "t"},
}  # fmt: skip


def page(**items: Any) -> dict[str, Any]:
    return {**items, "links": {}, "meta": {"total": len(next(iter(items.values())))}}


REPLIES: dict[str, Any] = {
    "GET /v2/droplets": page(droplets=[DROPLET, {**DROPLET, "id": 6, "region": {"name": "A", "slug": "ams3"}}]),
    "GET /v2/droplets/5": {"droplet": DROPLET},
    "POST /v2/droplets": {"droplet": {**DROPLET, "status": "new"}, "links": {"actions": [LINK]}},
    "GET /v2/droplets/5/snapshots": page(snapshots=[IMAGE]),
    "GET /v2/droplets/5/backups": page(backups=[IMAGE]),
    "GET /v2/droplets/5/actions": page(actions=[ACTION]),
    "GET /v2/droplets/5/actions/9": {"action": ACTION},
    "POST /v2/droplets/5/actions": {"action": ACTION},
    "GET /v2/droplets/backups/policies": page(policies={"5": POLICY}),
    "GET /v2/droplets/5/backups/policy": {"policy": POLICY},
    "GET /v2/droplets/6/backups/policy": {"policy": {"droplet_id": 6, "backup_enabled": False}},
    "GET /v2/droplets/backups/supported_policies": {"supported_policies": [
        {"name": "daily", "possible_window_starts": [0, 4], "window_length_hours": 4, "retention_period_days": 7,
         "possible_days": ["SUN", "MON"]},
    ]},
    "PUT /v2/droplets/5/disk": {"action": ACTION},
    "GET /v2/actions/9": {"action": ACTION},
    "GET /v2/images/7": {"image": IMAGE},
    "GET /v2/regions": page(regions=[{"name": "A", "slug": "ams3", "available": False}, {"name": "N", "slug": "nyc3"}]),
    "GET /v2/tags": page(tags=[TAG]),
    "POST /v2/tags": {"tag": TAG},
    "GET /v2/tags/web": {"tag": TAG},
    "GET /v2/account": {"account": ACCOUNT},
    "GET /v2/account/keys": page(ssh_keys=[KEY]),
    "POST /v2/account/keys": {"ssh_key": KEY},
    "GET /v2/account/keys/aa:bb": {"ssh_key": KEY},
    "PUT /v2/account/keys/3": {"ssh_key": KEY},
    "POST /v2/images/7/account_transfer": {"transfer_id": 4},
    "POST /v2/expire": {"action": ACTION},
    "POST /v2/scrub": {"action": ACTION},
    "POST /v2/images/7/verify": {"action": ACTION},
    "GET /v2/images/8": {"image": {**IMAGE, "health": {
        "state": "damaged", "checked_at": AT, "damaged": [{"region": "nyc3", "blocks": [3], "count": 1}],
    }}},
    "POST /v2/uploads": {"upload": {"id": "u1", "name": "n", "region": "nyc3", "offset": 0, "status": "open"}},
    "PATCH /v2/uploads/u1": {"upload": {"id": "u1", "name": "n", "region": "nyc3", "offset": 4, "status": "open"}},
    "POST /v2/uploads/u1/finish": {"image": IMAGE, "links": {"actions": [LINK]}},
}  # fmt: skip


class Service:
    """Answers from the table, with 204 where it has nothing, and keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.bodies: list[Any] = []
        self.replies = dict(REPLIES)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        name = f"{request.method} {request.url.path}"
        query = "&".join(f"{key}={value}" for key, value in request.url.params.items() if "page" not in key)
        self.sent.append(f"{name}?{query}".rstrip("?"))
        body = request.read()
        self.bodies.append(json.loads(body) if request.headers.get("content-type") == "application/json" else None)
        reply = self.replies.get(name)
        return httpx2.Response(204) if reply is None else httpx2.Response(200, json=reply)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service that is not there; the command line's client asks it."""
    service = Service()
    http = httpx2.Client(transport=httpx2.MockTransport(service.answer))
    monkeypatch.setattr("wherry.cli.session.Client", lambda *_, **__: Client("t", "http://service.test", http=http))
    return service


@pytest.fixture
def run(service: Service) -> Callable[..., str]:
    """Runs a command line that must succeed; answers what it printed."""

    def run(line: str, *further: object) -> str:
        done = CliRunner().invoke(wherry, [*line.split(), *map(str, further)], standalone_mode=False)
        assert done.exception is None, done.exception
        assert done.return_value in {None, 0}
        return done.stdout

    return run


POST_ACTION = "POST /v2/droplets/5/actions"
LINES: list[tuple[str, str, Any]] = [
    ("compute droplet get 5", "GET /v2/droplets/5", None),
    ("compute droplet list --tag-name a", "GET /v2/droplets?tag_name=a", None),
    ("compute droplet list --gpus --name web", "GET /v2/droplets?name=web&type=gpus", None),
    ("compute droplet delete 5 --force", "DELETE /v2/droplets/5", None),
    ("compute droplet delete --tag-name a --force", "DELETE /v2/droplets?tag_name=a", None),
    ("compute droplet tag 5 --tag-name a", "POST /v2/tags/a/resources",
     {"resources": [{"resource_id": "5", "resource_type": "droplet"}]}),
    ("compute droplet untag 5 --tag-name a", "DELETE /v2/tags/a/resources",
     {"resources": [{"resource_id": "5", "resource_type": "droplet"}]}),
    ("compute droplet-action get 5 --action-id 9", "GET /v2/droplets/5/actions/9", None),
    ("compute droplet-action snapshot 5 --snapshot-name s", POST_ACTION, {"type": "snapshot", "name": "s"}),
    ("compute droplet-action enable-backups 5", POST_ACTION, {"type": "enable_backups"}),
    ("compute droplet-action enable-backups 5 --backup-policy-plan daily --backup-policy-hour 20", POST_ACTION,
     {"type": "enable_backups", "backup_policy": {"plan": "daily", "hour": 20}}),
    ("compute droplet-action change-backup-policy 5 --backup-policy-plan weekly --backup-policy-weekday SUN",
     POST_ACTION, {"type": "change_backup_policy", "backup_policy": {"plan": "weekly", "weekday": "SUN"}}),
    ("compute droplet-action disable-backups 5", POST_ACTION, {"type": "disable_backups"}),
    ("compute droplet-action restore 5 --image-id 7", POST_ACTION, {"type": "restore", "image": 7}),
    ("compute droplet-action rebuild 5 --image debian-13-x64", POST_ACTION,
     {"type": "rebuild", "image": "debian-13-x64"}),
    ("compute droplet-action rebuild 5 --image 7", POST_ACTION, {"type": "rebuild", "image": 7}),
    ("compute droplet-action power-on 5", POST_ACTION, {"type": "power_on"}),
    ("compute droplet-action power-off 5", POST_ACTION, {"type": "power_off"}),
    ("compute droplet-action shutdown 5", POST_ACTION, {"type": "shutdown"}),
    ("compute droplet-action reboot 5", POST_ACTION, {"type": "reboot"}),
    ("compute droplet-action power-cycle 5", POST_ACTION, {"type": "power_cycle"}),
    ("compute droplet-action password-reset 5", POST_ACTION, {"type": "password_reset"}),
    ("compute droplet-action enable-ipv6 5", POST_ACTION, {"type": "enable_ipv6"}),
    ("compute droplet-action resize 5 --size s-2vcpu-2gb --resize-disk", POST_ACTION,
     {"type": "resize", "size": "s-2vcpu-2gb", "disk": True}),
    ("compute droplet-action rename 5 --droplet-name n", POST_ACTION, {"type": "rename", "name": "n"}),
    ("compute tag create web", "POST /v2/tags", {"name": "web"}),
    ("compute tag get web", "GET /v2/tags/web", None),
    ("compute tag delete web --force", "DELETE /v2/tags/web", None),
    ("compute tag apply web --resource do:droplet:5,do:image:7", "POST /v2/tags/web/resources",
     {"resources": [{"resource_id": "5", "resource_type": "droplet"}, {"resource_id": "7", "resource_type": "image"}]}),
    ("compute tag remove web --resource do:image:7", "DELETE /v2/tags/web/resources",
     {"resources": [{"resource_id": "7", "resource_type": "image"}]}),
    ("compute ssh-key create k --public-key ssh-ed25519-AAAA", "POST /v2/account/keys",
     {"name": "k", "public_key": "ssh-ed25519-AAAA"}),
    ("compute ssh-key get aa:bb", "GET /v2/account/keys/aa:bb", None),
    ("compute ssh-key update 3 --key-name n", "PUT /v2/account/keys/3", {"name": "n"}),
    ("compute ssh-key delete 3 --force", "DELETE /v2/account/keys/3", None),
    ("compute image account-transfer create 7 --recipient-email a@b.c", "POST /v2/images/7/account_transfer",
     {"recipient_email": "a@b.c"}),
    ("compute image account-transfer accept 7 --transfer-id 4 --recipient-uuid u",
     "POST /v2/images/7/account_transfer/accept", {"transfer_id": 4, "recipient_uuid": "u"}),
    ("compute image account-transfer cancel 7 --transfer-id 4", "POST /v2/images/7/account_transfer/cancel",
     {"transfer_id": 4}),
    ("compute image account-transfer decline 7 --transfer-id 4", "POST /v2/images/7/account_transfer/decline",
     {"transfer_id": 4}),
    ("expire", "POST /v2/expire", {}),
    ("scrub --region nyc3", "POST /v2/scrub", {"region": "nyc3"}),
    ("compute image verify 7", "POST /v2/images/7/verify", {}),
    ("compute image verify 7 --region nyc3", "POST /v2/images/7/verify", {"region": "nyc3"}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "sent", "body"), LINES, ids=[line[0] for line in LINES])
def test_a_command_makes_its_call(run: Callable[..., str], service: Service, line: str, sent: str, body: Any) -> None:
    """A command line becomes one call, with what was said and nothing else."""
    run(line)
    assert (service.sent, service.bodies) == ([sent], [body])


SHOWN = [
    ("compute image get 8 --format ID,Health,CheckedAt", f"7 damaged (nyc3: 1 lost) {AT}"),
    ("compute image get 7 --format ID,Health", "7"),
    ("compute image verify 7 --wait --format ID,Name", "7 13 x64"),
    ("compute droplet list --format ID,Region", "5 nyc3 6 ams3"),
    ("compute droplet list --region ams3 --format ID", "6"),
    ("compute droplet get 5 --format PublicIPv4,PrivateIPv4,PublicIPv6,Image,VPCUUID,Tags,SizeSlug",
     "192.0.2.7 10.1.0.2 Debian 13 x64 v a,b s-1vcpu-1gb"),
    ("compute droplet snapshots 5 --format ID", "7"),
    ("compute droplet backups 5 --format ID", "7"),
    ("compute droplet actions 5 --format ID,Type", "9 snapshot"),
    ("compute droplet backup-policies list --format DropletID,BackupPolicyPlan,NextBackupWindowEnd",
     "5 weekly 2026-01-02T07:04:05Z"),
    ("compute droplet backup-policies get 6", "6 false"),
    ("compute droplet backup-policies list-supported", "daily 0,4 4 7 SUN,MON"),
    ("compute tag list", "web 2 1"),
    ("compute ssh-key list", "3 k aa:bb"),
    ("compute image account-transfer create 7 --recipient-uuid u", "4"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "shown"), SHOWN, ids=[line[0] for line in SHOWN])
def test_a_list_has_doctls_columns(run: Callable[..., str], line: str, shown: str) -> None:
    """What is printed stands in columns by doctl's names."""
    assert " ".join(run(f"{line} --no-header").split()) == shown


def test_a_droplet_is_created_as_the_options_say(run: Callable[..., str], service: Service) -> None:
    """Ids are numbers, lists are split, a policy asks for backups, and the new Droplet is shown."""
    printed = run(
        "compute droplet create web --size s-1vcpu-1gb --image 7 --region nyc3 --ssh-keys 3,aa:bb --tag-names a,b "
        "--backup-policy-plan weekly --backup-policy-weekday SUN -o json"
    )
    assert service.bodies == [{
        "name": "web", "size": "s-1vcpu-1gb", "image": 7, "region": "nyc3", "ssh_keys": [3, "aa:bb"],
        "tags": ["a", "b"], "backups": True, "backup_policy": {"plan": "weekly", "weekday": "SUN"}, "ipv6": False,
        "monitoring": False,
    }]  # fmt: skip
    assert json.loads(printed)[0]["status"] == "new"


def test_creating_waits_where_it_is_told_to(run: Callable[..., str], service: Service) -> None:
    """With --wait the Droplet is shown as it is once its action is completed."""
    assert run("compute droplet create web --size s --image debian --wait --format Status --no-header") == "active\n"
    assert service.sent == ["POST /v2/droplets", "GET /v2/actions/9", "GET /v2/droplets/5"]


def test_several_names_create_several_droplets(run: Callable[..., str], service: Service) -> None:
    """They are asked for at once."""
    links = {"actions": [LINK, {**LINK, "id": 10}]}
    service.replies["POST /v2/droplets"] = {"droplets": [DROPLET, {**DROPLET, "id": 6}], "links": links}
    assert run("compute droplet create web db --size s --image debian --format ID --no-header").split() == ["5", "6"]
    assert service.bodies[0]["names"] == ["web", "db"]
    assert "name" not in service.bodies[0]


def test_a_key_is_read_from_a_file(run: Callable[..., str], service: Service, tmp_path: Path) -> None:
    """Its line comes without the line's end."""
    (tmp_path / "k.pub").write_text("ssh-ed25519 AAAA me\n")
    run("compute ssh-key import k --public-key-file", tmp_path / "k.pub")
    assert service.bodies == [{"name": "k", "public_key": "ssh-ed25519 AAAA me"}]


def test_an_offer_is_accepted_for_ones_own_team(run: Callable[..., str], service: Service) -> None:
    """The team's UUID is looked up where it is not given."""
    run("compute image account-transfer accept 7 --transfer-id 4")
    assert service.bodies[-1] == {"transfer_id": 4, "recipient_uuid": "team-1"}


def test_a_disk_image_is_published(run: Callable[..., str], service: Service, tmp_path: Path) -> None:
    """It is uploaded under its slug, in the first region that is available, waited for, and shown."""
    (tmp_path / "d.img").write_bytes(b"disk")
    printed = run(
        "image publish --slug debian-13-x64 --distribution Debian --format ID --no-header", tmp_path / "d.img"
    )
    expected = {"name": "debian-13-x64", "region": "nyc3", "distribution": "Debian", "slug": "debian-13-x64"}
    assert service.bodies[1] == expected | {"blocks": True}
    assert service.sent[-2:] == ["GET /v2/actions/9", "GET /v2/images/7"]
    assert printed == "7\n"


def test_a_droplets_disk_is_imported(run: Callable[..., str], service: Service, tmp_path: Path) -> None:
    """The file is uploaded for the Droplet, and then becomes its disk."""
    (tmp_path / "d.img").write_bytes(b"disk")
    run("compute droplet disk import 5", tmp_path / "d.img", "--wait")
    assert service.bodies[0] == {"droplet_id": 5}
    assert service.sent[2] == "PUT /v2/droplets/5/disk?upload_id=u1"


def test_a_dry_run_says_which_backups_would_go(run: Callable[..., str], service: Service) -> None:
    """Nothing is begun."""
    plan = {"image_id": 7, "name": "web", "droplet_id": 5, "created_at": AT, "expires_at": AT}
    service.replies["POST /v2/expire"] = {"plan": [plan]}
    assert run("expire --dry-run --no-header").split() == ["7", "web", "5", AT, AT]
    assert service.bodies == [{"dry_run": True}]


WRONG = [
    "compute droplet delete --force",
    "compute droplet delete 5 --tag-name a --force",
    "compute droplet create web --size s --image 7 --backup-policy-hour 4",
    "compute droplet-action change-backup-policy 5",
    "compute tag apply web --resource do:volume:5",
    "compute tag apply web --resource 5",
    "compute image account-transfer create 7",
]


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_is_refused_before_anything_is_sent(service: Service, line: str) -> None:
    """What is missing or contradicts itself is a usage error."""
    done = CliRunner().invoke(wherry, line.split(), standalone_mode=False)
    assert isinstance(done.exception, click.UsageError)
    assert service.sent == []


@pytest.mark.parametrize(
    "line", ["compute droplet delete 5", "compute tag delete web", "compute ssh-key delete 3",
             "compute droplet delete --tag-name a"],
)  # fmt: skip
def test_deleting_asks_first(service: Service, line: str) -> None:
    """Nothing is deleted without a yes."""
    done = CliRunner().invoke(wherry, line.split(), input="n\n", standalone_mode=False)
    assert isinstance(done.exception, click.Abort)
    assert service.sent == []


def test_an_action_that_waits_says_for_what(run: Callable[..., str], service: Service) -> None:
    """In a table as a column, and in a line while it is waited for."""
    waiting = "one of the 2 transfers at a time into ams3"
    shown = {**ACTION, "status": "in-progress", "progress": {"stage": "wait", "waiting_for": waiting}}
    service.replies["GET /v2/images/7/actions/9"] = {**shown, "action": shown}
    service.replies["GET /v2/images/7/actions"] = page(actions=[shown, ACTION])
    assert run("compute image-action get 7 --action-id 9 --format WaitingFor --no-header") == waiting + "\n"
    assert run("compute image-action list 7 --format ID,WaitingFor").splitlines()[1].endswith(waiting)
    assert describe(Progress(stage="wait", waiting_for=waiting)) == f"waiting for {waiting}"


@pytest.mark.parametrize(
    ("region", "status", "said"),
    [
        ("", 1, "Error: image 7 is damaged (nyc3: 1 lost)\n"),
        ("--region nyc3", 1, "Error: image 7 is damaged (nyc3: 1 lost)\n"),
        ("--region ams3", 0, ""),
    ],
)
def test_an_image_that_is_damaged_after_it_was_checked_is_an_error(
    service: Service, region: str, status: int, said: str
) -> None:
    """Where it was to be checked; the image is shown, and what is lost is said."""
    service.replies["GET /v2/images/7"] = REPLIES["GET /v2/images/8"]
    service.replies["GET /v2/actions/9"] = {"action": ACTION}
    line = f"compute image verify 7 --wait {region} --format Health --no-header"
    done = CliRunner().invoke(wherry, line.split(), standalone_mode=False)
    assert (done.return_value, done.stdout) == (status, "damaged (nyc3: 1 lost)\n")
    assert done.stderr.endswith(said)
    assert ("Error" in done.stderr) == bool(said)


def test_a_line_of_progress_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Elsewhere than on a terminal: time alone is nothing new."""
    seconds = itertools.count(step=10)
    monkeypatch.setattr("wherry.cli.output.time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    waits = Progress(stage="wait", waiting_for="a free worker")
    runs = Progress(stage="copy", bytes_sent=1)
    with ActionView() as view:
        for progress in (waits, waits, waits, runs, runs):
            view.see(
                Action(
                    id=9,
                    status="in-progress",
                    type="transfer",
                    started_at=datetime(2026, 1, 2, tzinfo=UTC),
                    progress=progress,
                )
            )
    assert capsys.readouterr().err.splitlines() == [
        "transfer 9: wait, waiting for a free worker",
        "transfer 9: copy, 1 B sent, 0 B reused",
    ]


DONE = Progress(
    stage="done", bytes_sent=3 << 20, bytes_reused=1 << 20, bytes_freed=5 << 20, bytes_left=0, percent=100.0
)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("transfer", "3.0 MiB sent, 1.0 MiB reused"),
        ("collect", "5.0 MiB freed"),
        ("compact", "3.0 MiB rewritten, 5.0 MiB freed, 0 B left to look at"),
        ("scrub", "3.0 MiB checked"),
        ("verify", "3.0 MiB checked"),
        ("heal", "3.0 MiB moved"),
    ],
)
def test_what_an_action_did_is_said_in_its_own_words(kind: str, said: str) -> None:
    """What frees bytes says how many; what checks or moves them does not say that it sent them."""
    assert describe(DONE, kind) == said


def test_a_dry_run_of_a_compact_says_that_there_is_nothing_to_do(service: Service) -> None:
    """An empty table alone might be an error as well."""
    service.replies["POST /v2/compact"] = {"plan": []}
    said = "nothing to do: no pack is more than half dead\n"
    assert CliRunner().invoke(wherry, ["compact", "--dry-run"]).stderr == said
    service.replies["POST /v2/compact"] = {
        "plan": [{"region": "nyc3", "packs": 1, "bytes_to_rewrite": 2, "bytes_freed": 3}]
    }
    assert CliRunner().invoke(wherry, ["compact", "--dry-run"]).stderr == ""


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_have_names_of_their_own(kind: type) -> None:
    """No two columns of a table are asked for by the same word."""
    words = [title.replace(" ", "").lower() for title, _ in COLUMNS[kind]]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("word", ["--image-format", "--format"])
def test_a_disk_is_said_to_be_raw(run: Callable[..., str], service: Service, tmp_path: Path, word: str) -> None:
    """The word goes into the request, and is not taken for a column to print."""
    (tmp_path / "d.img").write_bytes(b"disk")
    run("compute droplet disk import 5", tmp_path / "d.img", "--wait", word, "raw")
    assert any(body and body.get("format") == "raw" for body in service.bodies)


def test_an_older_copy_that_does_not_exist_is_refused(service: Service, tmp_path: Path) -> None:
    """A name with a typo does not become an export of the whole disk; a file that was being changed in place does."""
    old = tmp_path / "old.img"
    words = ["compute", "image", "export", "7", "--onto", str(old)]
    done = CliRunner().invoke(wherry, words, standalone_mode=False)
    assert isinstance(done.exception, click.UsageError)
    assert "does not exist" in done.exception.message
    assert service.sent == []
    old.with_name("old.img.part").write_bytes(b"all that is left")
    CliRunner().invoke(wherry, words, standalone_mode=False)
    assert service.sent != []


def test_an_export_that_was_refused_does_not_say_that_it_goes_on(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older partial file is not what came of this command."""
    part = tmp_path / "out.img.part"
    part.write_bytes(b"of before")

    def refuse(_self: object, _image_id: int, _path: Path, **named: Any) -> None:
        for hear in heard:
            named["on_begin"](hear)
        raise ConnectionFailed("cut")

    monkeypatch.setattr("wherry.client._sync.images.Images.export", refuse)
    for heard in ([], [part]):
        done = CliRunner().invoke(wherry, ["compute", "image", "export", "7", str(tmp_path / "out.img")])
        assert ("the same command goes on with it" in done.stderr) == bool(heard)
