"""Exports by blocks, as any program may make them: names, and blocks as they are stored, of this image alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import zstandard
from tests.support.block_disk import MIB, BlockDisk

from wherry.fingerprint import BLOCK_SIZE, Fingerprint, block_digest
from wherry.records import RECORD_SIZE, ZSTD, read_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.api.conftest import Api

DISK = os.urandom(2 * MIB) + bytes(MIB) + (b"words " * 200_000)[:MIB] + os.urandom(MIB // 2)


def unpack(records: bytes) -> list[tuple[bytes, bytes]]:
    """The names and the plain bytes of records."""
    found = []
    while records:
        entry = read_head(records[:RECORD_SIZE])
        stored, records = records[RECORD_SIZE:][: entry.stored_length], records[RECORD_SIZE + entry.stored_length :]
        plain = zstandard.ZstdDecompressor().decompress(stored) if entry.codec == ZSTD else stored
        found.append((entry.digest, plain))
    return found


def test_a_disk_is_read_by_its_blocks(api: Api) -> None:
    """The list names all blocks, whose records make the disk; and the names make the image's fingerprint."""
    image, disk = api.make(content=DISK), BlockDisk(DISK)
    listed = api.get(f"/v2/images/{image['id']}/blocks")
    records = api.get(f"/v2/images/{image['id']}/blocks/0-4")
    fingerprint = Fingerprint(len(DISK))
    for number in (0, 1, 3, 4):
        fingerprint.add(number, disk.listed[number * 32 :][:32])

    assert (listed.status_code, listed.content) == (200, disk.listed)
    assert listed.headers["wherry-size"] == records.headers["wherry-size"] == str(len(DISK))
    assert listed.headers["wherry-fingerprint"] == fingerprint.hex()
    assert unpack(records.content) == [(bytes.fromhex(name), plain) for name, plain in disk.blocks.items()]
    assert len(records.content) < len(DISK) - MIB // 2  # they come compressed


def test_only_the_blocks_that_are_asked_for_come(api: Api) -> None:
    """Numbers and ranges of them, without the blocks of zeros."""
    path = f"/v2/images/{api.make(content=DISK)['id']}/blocks"

    def read(numbers: str) -> list[bytes]:
        reply = api.get(f"{path}/{numbers}")
        assert reply.status_code == 200, reply.text
        return [plain for _, plain in unpack(reply.content)]

    assert read("1,3") == [DISK[MIB : 2 * MIB], DISK[3 * MIB : 4 * MIB]]
    assert read("1-2,4") == [DISK[MIB : 2 * MIB], DISK[4 * MIB :]]
    assert read("2") == []


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ("x", "'x' are no numbers of blocks; something like 0-63,70 is wanted"),
        ("1-", "are no numbers"),
        ("-1", "are no numbers"),
        ("1,,2", "are no numbers"),
        ("2,1", "must ascend; 1 does not"),
        ("0-2,2", "must ascend; 2 does not"),
        ("3-1", "must ascend; 3-1 does not"),
        ("4-5", "Block 5 lies outside the 5 blocks of the disk"),
        ("999999999999999", "Block 999999999999999 lies outside"),
        ("9" * 5000, "are no numbers"),
    ],
)
def test_numbers_that_are_none_are_refused(api: Api, numbers: str, reason: str) -> None:
    """The message says what was wrong."""
    reply = api.get(f"/v2/images/{api.make(content=DISK)['id']}/blocks/{numbers}")
    assert reply.status_code == 422
    assert reason in reply.json()["message"]


def test_too_many_blocks_are_refused(api: Api) -> None:
    """At most 4,096 are sent by one call."""
    image = api.make(content=b"a disk" + bytes(5000 * MIB // 1000))
    action = api.post("/v2/uploads", json={"name": "sparse", "region": "nyc3", "blocks": True}).json()["upload"]
    size = 5000 * BLOCK_SIZE
    api.put(f"/v2/uploads/{action['id']}/disk", content=bytes(5000 * 32), params={"size": size, "format": "raw"})
    begun = api.post(f"/v2/uploads/{action['id']}/finish").json()["image"]["id"]
    assert api.settled(begun)["status"] == "available"

    assert api.get(f"/v2/images/{begun}/blocks").content == bytes(5000 * 32)
    assert api.get(f"/v2/images/{begun}/blocks/100-4195").content == b""
    refused = api.get(f"/v2/images/{begun}/blocks/100-4196")
    assert (refused.status_code, refused.json()["message"]) == (
        422, "4097 blocks are asked for; at most 4096 may be",
    )  # fmt: skip
    assert api.get(f"/v2/images/{image['id']}/blocks/0").status_code == 200


def test_blocks_of_an_image_that_the_account_has_not_are_not_told(api: Api, other: Api) -> None:
    """Another account's image is not found, though the caller has one of the same blocks; a public image is read."""
    theirs, mine = other.make(content=DISK), api.make(content=DISK)
    public = other.make(content=DISK, kind="base", slug="public-blocks")

    def statuses(image_id: int) -> list[int]:
        return [api.get(f"/v2/images/{image_id}/blocks{tail}").status_code for tail in ("", "/0-4")]

    assert statuses(theirs["id"]) == statuses(10**9) == [404, 404]
    assert statuses(mine["id"]) == statuses(public["id"]) == [200, 200]


def test_blocks_are_read_with_the_scope_of_an_export(api: Api, scoped: Callable[..., Api]) -> None:
    """A token for reading images reads blocks; another one does not."""
    image = api.make(content=DISK)
    for tail in ("", "/0-4"):
        path = f"/v2/images/{image['id']}/blocks{tail}"
        assert scoped("image:read").get(path).status_code == 200
        assert scoped("image:create").get(path).status_code == 403


def test_a_region_may_be_chosen(api: Api) -> None:
    """Blocks are read in the region that the query names; one that has no copy of the image is refused."""
    image = api.make(content=DISK)
    action = api.act(image["id"], type="transfer", region="ams3").json()["action"]["id"]
    assert api.ended(action)["status"] == "completed"
    path = f"/v2/images/{image['id']}/blocks"

    assert api.get(path, params={"region": "ams3"}).content == api.get(path, params={"region": "nyc3"}).content
    there = api.get(f"{path}/0", params={"region": "ams3"})
    assert unpack(there.content) == [(block_digest(DISK[:MIB]), DISK[:MIB])]
    assert api.get(path, params={"region": "sfo3"}).status_code == 404


def test_heads_are_replied_without_bytes(api: Api) -> None:
    """HEAD of the list has its length, HEAD of blocks, which is not known before, has none."""
    path = f"/v2/images/{api.make(content=DISK)['id']}/blocks"
    assert api.head(path).headers["content-length"] == str(5 * 32)
    assert "content-length" not in api.head(f"{path}/0-4").headers
