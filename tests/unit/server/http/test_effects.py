"""Every field of every request has its place in the table of what becomes of it, and the guide says the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.inspect import DictType, ListType, StructType, UnionType, type_info

from wherry import models as m
from wherry.calls import CALLS
from wherry.errors import Unprocessable
from wherry.server.actions.droplets import REQUESTED
from wherry.server.http.effects import ACTION_FIELDS, EFFECTS, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msgspec.inspect import Type

ROOT = Path(__file__).parents[4]
FACE = ROOT / "src" / "wherry" / "server" / "http"


def structs_of(kind: Type) -> Iterator[StructType]:
    """All object types that a request may have in it."""
    match kind:
        case UnionType():
            for member in kind.types:
                yield from structs_of(member)
        case StructType():
            yield kind
            for field in kind.fields:
                yield from structs_of(field.type)
        case ListType():
            yield from structs_of(kind.item_type)
        case DictType():
            yield from structs_of(kind.value_type)


REQUESTS = {kind.cls: kind for call in CALLS if call.body for kind in structs_of(type_info(call.body))}


def test_every_request_type_is_in_the_table() -> None:
    """No request type is left out, and none is named that no call takes."""
    assert REQUESTS.keys() == EFFECTS.keys()


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_every_field_has_a_place(kind: type[m.Model]) -> None:
    """A new field of a request must be given a row, in the order of the type."""
    assert [field.encode_name for field in REQUESTS[kind].fields] == list(EFFECTS[kind])


def test_every_action_of_a_droplet_says_which_fields_it_takes() -> None:
    """A new type of action must say which of the fields it takes."""
    assert ACTION_FIELDS.keys() == REQUESTED
    assert set().union(*ACTION_FIELDS.values()) | {"type"} == EFFECTS[m.DropletActionRequest].keys()


def test_every_parameter_is_read_and_every_one_that_is_read_is_declared() -> None:
    """No query parameter is declared that no handler looks at, or looked at that no call declares."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in FACE.rglob("*.py"))
    read = set(re.findall(r'\.(?:query|flag)\("(\w+)"\)', code))
    declared = {param.name for call in CALLS for param in call.params if param.place == "query"}
    loops = {"name", "region", "distribution"}  # of a test's image, which are read in a loop
    assert (read - declared, declared - read - loops) == (set(), set())


@pytest.mark.parametrize(
    "body",
    [
        m.DropletCreateRequest(name="web", names=[], backup_policy=m.BackupPolicyRequest(plan="", hour=0)),
        m.DropletActionRequest(type="reboot", name="", disk=False, kernel=0),
        m.DropletActionRequest(type="no such type", name="x"),
        m.BackupPolicyRequest(plan="weekly", weekday="sun", day="SUN", window_length_hours=4, retention_period_days=28),
        m.BackupPolicyRequest(window_length_hours=0, retention_period_days=0),
        m.UploadCreateRequest(droplet_id=7, name="", tags=[], format="raw"),
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_taken(body: m.Model) -> None:
    """Clients send defaults of all kinds."""
    check(body)


def test_a_nested_object_is_looked_at() -> None:
    """A field of a policy is refused in whichever request it comes."""
    policy = m.BackupPolicyRequest(plan="weekly", retention_period_days=7)
    for body in (
        m.DropletCreateRequest(name="web", backups=True, backup_policy=policy),
        m.DropletActionRequest(type="enable_backups", backup_policy=policy),
    ):
        with pytest.raises(Unprocessable, match="retention_period_days: the plan sets it: 28 days for weekly"):
            check(body)


def test_the_guide_is_what_the_table_says() -> None:
    """The guide is generated, and never stale."""
    done = subprocess.run(
        [sys.executable, "scripts/request_guide.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
