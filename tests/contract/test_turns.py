"""No request holds the turn of all writers for longer because its list is longer: the statements in it are as many.

Each request that takes a list, or a tag that many resources have, is made with one item and with as many as it takes,
over both kinds of database, and the statements that change the catalog are counted.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from msgspec.inspect import ListType, StructType, UnionType, type_info
from sqlalchemy import update
from tests.contract.test_statements import counted
from tests.fault.rooms import Site

from wherry import calls as c
from wherry.fingerprint import block_digest
from wherry.server.admin.accounts import first_token
from wherry.server.catalog import tables as t
from wherry.server.http import make_app
from wherry.server.rules.lifecycle import BULK_ACTIONS, MOST_AT_ONCE
from wherry.server.settings import load_regions
from wherry.server.storage.backends.memory import MemoryBackend
from wherry.testing.service import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from msgspec.inspect import Type
    from starlette.types import ASGIApp
    from tests.fault.rooms import Rooms

    from wherry.server.catalog import Catalog

OWNER = 1
SIZE = "s-1vcpu-1gb"
SLUGS = tuple(slug for slug, region in load_regions().items() if "image_transfer" in region.features)
PUBLIC_URL = "http://1.1.1.1/disk.raw"  # nothing is fetched: no action runs


@dataclass
class House:
    """A service in this process, whose actions begin and do not run."""

    rooms: Rooms
    app: ASGIApp
    image: int
    upload: str = ""

    def statements(self, call: c.Call, body: Any = None, **params: Any) -> int:
        """Make a request that must succeed; returns how many statements of the writer that took."""
        url = call.url(image_id=self.image, tag="all", upload_id=self.upload)
        with counted(self.rooms.catalog) as said:
            reply = asyncio.run(self._request(call.method, url, body, params))
        assert reply.is_success, reply.text
        return len(said)

    def droplets(self, count: int, tag: str, *, status: str = "active", with_backup: bool = False) -> list[int]:
        """Add Droplets with a tag."""
        with self.rooms.catalog.begin() as tx:
            replica = tx.replica(self.image, "nyc3")
            assert replica is not None
            ids = tx.add_droplets(
                OWNER, [f"m{number}" for number in range(count)], facts={}, policy=None, region="nyc3", size=SIZE,
                is_gpu=False, image_id=self.image, manifest_id=replica.manifest_id, virtual_bytes=1 << 20,
                data_bytes=512, fingerprint="f",
            )  # fmt: skip
            tx.tag_resources(OWNER, "droplet", ids, [tag])
            tx.connection.execute(update(t.droplets).where(t.droplets.c.id.in_(ids)).values(status=status))
            for droplet in tx.droplets_by_id(ids) if with_backup else ():
                image_id = tx.add_image_of(droplet, "a backup", "backup", created_at=0)
                tx.add_replica(image_id, "nyc3", replica.manifest_id)
        return ids

    async def _request(self, method: str, url: str, body: Any, params: dict[str, Any]) -> httpx2.Response:
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app), base_url="http://wherry.test", timeout=60,
            headers={"authorization": f"Bearer {TOKEN}"},
        ) as client:  # fmt: skip
            return await client.request(method, url, json=body, params=params)


@pytest.fixture
def house(catalog: Catalog, tmp_path: Path) -> House:
    """A service over either kind of database, with an image in one of all regions."""
    rooms = Site(tmp_path, {slug: MemoryBackend() for slug in SLUGS}).open(catalog=catalog)
    first_token(catalog, TOKEN)
    return House(rooms, make_app(rooms.service), rooms.import_disk(b"a disk" * 1000))


def create_droplets(house: House, count: int) -> int:
    keys = range(min(count * 10, 100))
    with house.rooms.catalog.begin() as tx:
        ids = [tx.add_ssh_key(OWNER, f"k{count}", f"key {count} {key}", f"{count}:{key}").id for key in keys]
    body = {
        "names": [f"web-{number}" for number in range(count)], "size": SIZE, "region": "nyc3", "image": house.image,
        "ssh_keys": ids, "tags": [f"t{count}-{number}" for number in range(count * 10)], "backups": True,
    }  # fmt: skip
    return house.statements(c.DROPLETS_CREATE, body)


def import_image(house: House, count: int) -> int:
    tags = [f"t{count}-{number}" for number in range(count)]
    headers = {f"x-{number}": "x" for number in range(min(count, 20))}
    body = {"name": "disk", "url": PUBLIC_URL, "region": "nyc3", "tags": tags, "headers": headers}
    return house.statements(c.IMAGES_CREATE, body)


def begin_upload(house: House, count: int) -> int:
    tags = [f"t{count}-{number}" for number in range(count)]
    return house.statements(c.UPLOADS_CREATE, {"name": "disk", "region": "nyc3", "tags": tags})


def ask_for_missing(house: House, count: int) -> int:
    """The first block is one of an image, whose manifest the upload then holds."""
    began = asyncio.run(
        house._request("POST", "/v2/uploads", {"name": "disk", "region": "nyc3", "blocks": True}, {})
    ).json()
    house.upload = began["upload"]["id"]
    block = (b"a disk" * 1000).ljust(6144, b"\0")  # whole sectors
    names = [block_digest(block).hex(), *(f"{number:064x}" for number in range(1, count))]
    statements = house.statements(c.UPLOAD_BLOCKS_MISSING, {"names": names})
    assert statements  # the image was found
    return statements


def transfer(house: House, count: int) -> int:
    targets = [slug for slug in SLUGS if slug != "nyc3"][:count]
    house.image = house.rooms.import_disk(b"another disk" * 1000)
    return house.statements(c.IMAGE_ACTIONS_CREATE, {"type": "transfer", "regions": targets})


def tag_many(house: House, count: int) -> int:
    return house.statements(c.TAGS_ASSIGN, resources_of(house, count))


def untag_many(house: House, count: int) -> int:
    return house.statements(c.TAGS_UNASSIGN, resources_of(house, count))


def resources_of(house: House, count: int) -> dict[str, Any]:
    with house.rooms.catalog.begin() as tx:
        tx.add_tag(OWNER, "all")
    ids = house.droplets(count, f"some-{count}")
    return {"resources": [{"resource_id": str(number), "resource_type": "droplet"} for number in ids]}


def act_on_tagged(kind: str) -> Callable[[House, int], int]:
    def act(house: House, count: int) -> int:
        house.droplets(count, f"{kind}-{count}", status="off" if kind == "power_on" else "active")
        return house.statements(c.DROPLET_ACTIONS_CREATE_TAGGED, {"type": kind}, tag_name=f"{kind}-{count}")

    act.__name__ = f"act_on_tagged {kind}"
    return act


def delete_tagged(house: House, count: int) -> int:
    house.droplets(count, f"gone-{count}", with_backup=True)
    return house.statements(c.DROPLETS_DELETE_TAGGED, tag_name=f"gone-{count}")


LARGEST: dict[str, list[tuple[Callable[[House, int], int], int]]] = {
    c.DROPLETS_CREATE.name: [(create_droplets, 10)],  # 1,000 tags are given then: two batches
    c.IMAGES_CREATE.name: [(import_image, 100)],
    c.UPLOADS_CREATE.name: [(begin_upload, 100)],
    c.UPLOAD_BLOCKS_MISSING.name: [(ask_for_missing, 10_000)],
    c.IMAGE_ACTIONS_CREATE.name: [(transfer, len(SLUGS) - 1)],
    c.TAGS_ASSIGN.name: [(tag_many, 500)],
    c.TAGS_UNASSIGN.name: [(untag_many, 500)],
    c.DROPLET_ACTIONS_CREATE_TAGGED.name: [(act_on_tagged(kind), MOST_AT_ONCE) for kind in sorted(BULK_ACTIONS)],
    c.DROPLETS_DELETE_TAGGED.name: [(delete_tagged, 99)],
}
"""By call: how it is made with a list of some length, and the longest one that it takes in one turn."""
CASES = [case for cases in LARGEST.values() for case in cases]


def lists_of(kind: Type) -> Iterator[str]:
    """The fields of a request that are lists."""
    match kind:
        case UnionType():
            for member in kind.types:
                yield from lists_of(member)
        case StructType():
            for field in kind.fields:
                types = field.type.types if isinstance(field.type, UnionType) else (field.type,)
                yield from (field.encode_name for each in types if isinstance(each, ListType))


def test_every_request_with_a_list_is_looked_at() -> None:
    """A call whose body has a list, or that changes all resources with a tag, has its case here."""
    listing = {call.name for call in c.CALLS if call.body is not None and [*lists_of(type_info(call.body))]}
    by_tag = {call.name for call in c.CALLS if call.method != "GET" and "tag_name" in {p.name for p in call.params}}
    assert listing | by_tag == LARGEST.keys()


@pytest.mark.parametrize(("make", "most"), CASES, ids=[make.__name__ for make, _ in CASES])
def test_the_longest_list_takes_no_more_statements(house: House, make: Callable[[House, int], int], most: int) -> None:
    """The writer says as much for the largest legal request as for the smallest one, but for a second batch of 500."""
    assert make(house, most) == make(house, 1) + (make is create_droplets)


def test_a_tag_of_many_droplets_is_deleted_in_turns(house: House) -> None:
    """Each batch of a hundred has a turn of its own, and takes no more statements than one."""
    one = delete_tagged(house, 1)
    assert delete_tagged(house, 250) == 3 * one
    with house.rooms.catalog.read() as reader:
        assert reader.tagged(OWNER, "droplet", "gone-250") == []


def test_a_tag_of_too_many_droplets_begins_nothing(house: House) -> None:
    """An action begins for all Droplets with a tag, so for no more than one turn takes; the refusal says the cap."""
    house.droplets(MOST_AT_ONCE + 1, "crowd")
    with pytest.raises(AssertionError, match="More than 200 Droplets have the tag crowd"):
        house.statements(c.DROPLET_ACTIONS_CREATE_TAGGED, {"type": "power_off"}, tag_name="crowd")
    assert house.rooms.running() == []


def test_a_busy_droplet_keeps_all_with_its_tag(house: House) -> None:
    """Nothing is deleted by a tag while an action of one of its Droplets runs."""
    ids = house.droplets(150, "kept")
    with house.rooms.catalog.begin() as tx:
        tx.add_action("reboot", account_id=OWNER, droplet_id=ids[-1], region="nyc3")
    with pytest.raises(AssertionError, match="Droplet already has a pending event"):
        house.statements(c.DROPLETS_DELETE_TAGGED, tag_name="kept")
    with house.rooms.catalog.read() as reader:
        assert reader.tagged(OWNER, "droplet", "kept") == ids
