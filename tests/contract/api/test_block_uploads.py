"""Uploads by blocks, as any program may make them: what is missing is sent, and nothing is told of others' disks."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from blake3 import blake3
from tests.support.block_disk import MIB, BlockDisk

from wherry.fingerprint import block_digest
from wherry.records import PLAIN, ZSTD, Entry, record_head
from wherry.server.storage.block import encode

if TYPE_CHECKING:
    import httpx2
    from tests.contract.api.conftest import Api

DISK = os.urandom(2 * MIB) + bytes(MIB) + (b"words " * 200_000)[:MIB] + os.urandom(MIB // 2)


class Sender:
    """Sends a disk by blocks, call by call."""

    def __init__(self, api: Api, data: bytes = DISK, **asked: Any) -> None:
        self.api = api
        self.disk = BlockDisk(data)
        begun = api.post("/v2/uploads", json={"name": "uploaded", "region": "nyc3", "blocks": True, **asked})
        assert begun.status_code == 201, begun.text
        self.upload = begun.json()["upload"]
        self.path = f"/v2/uploads/{self.upload['id']}"

    def missing(self) -> list[str]:
        """The names of the blocks that must be sent."""
        reply = self.api.put(f"{self.path}/missing", json={"names": self.disk.names})
        assert reply.status_code == 200, reply.text
        return [self.disk.names[place] for place in reply.json()["missing"]]

    def put(self, records: bytes, number: int = 0) -> httpx2.Response:
        """Send records."""
        return self.api.put(f"{self.path}/blocks/{number}", content=records)

    def send(self) -> int:
        """Send what is missing; returns how many blocks that were."""
        missing = self.missing()
        reply = self.put(b"".join(map(self.disk.record, missing)))
        assert reply.status_code == 200, reply.text
        return len(missing)

    def describe(self, **asked: Any) -> httpx2.Response:
        """Say what the disk is."""
        return self.api.put(
            f"{self.path}/disk", content=self.disk.listed, params={"size": len(self.disk.data), **asked}
        )

    def finish(self) -> Any:
        """Import it, wait for that, and return the image."""
        assert self.describe().status_code == 200
        reply = self.api.post(f"{self.path}/finish")
        assert reply.status_code == 202, reply.text
        return self.api.settled(reply.json()["image"]["id"])


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def test_a_disk_comes_by_its_blocks_and_a_second_one_by_what_differs(api: Api) -> None:
    """All blocks are sent once; of a disk that differs in one block, that one alone. Both read as they were."""
    first = Sender(api)
    assert first.upload["block_size"] == MIB
    assert first.send() == 4
    image = first.finish()
    changed = Sender(api, os.urandom(MIB) + DISK[MIB:])
    assert changed.send() == 1
    other = changed.finish()

    assert api.get(f"/v2/images/{image['id']}/export").content == DISK
    assert api.get(f"/v2/images/{other['id']}/export").content == changed.disk.data
    progress = api.get(f"/v2/images/{other['id']}/actions").json()["actions"][0]["progress"]
    assert (progress["blocks_sent"], progress["blocks_reused"], progress["format"]) == (1, 3, "raw")


def test_finishing_twice_answers_the_same_import(api: Api) -> None:
    """An upload that was finished is over, and says which import it became."""
    sender = Sender(api)
    sender.send()
    assert refusal(api.post(f"{sender.path}/finish"))[1].startswith("Upload has no list of its blocks yet")
    sender.describe()
    first, again = api.post(f"{sender.path}/finish"), api.post(f"{sender.path}/finish")
    api.settled(first.json()["image"]["id"])

    assert (first.status_code, again.json()["links"]) == (202, first.json()["links"])
    assert refusal(sender.put(b"")) == (422, "Upload is already finished")
    assert refusal(sender.describe()) == (422, "Upload is already finished")


def test_only_blocks_of_disks_that_the_account_may_see_are_found(api: Api, other: Api) -> None:
    """What another account has is missing; what a public image has is not."""
    other.make(content=DISK)
    assert len(Sender(api).missing()) == 4
    assert Sender(other).missing() == []
    api.make(content=DISK, kind="base", slug="public-1")
    assert Sender(other).missing() == Sender(api).missing() == []


def test_an_upload_is_its_accounts_own(api: Api, other: Api) -> None:
    """Another account can neither ask about an upload by blocks nor send to it."""
    sender = Sender(api)
    sender.api = other
    sender_calls = (
        other.put(f"{sender.path}/missing", json={"names": []}), sender.put(b""), sender.describe(),
        other.post(f"{sender.path}/finish"),
    )  # fmt: skip
    assert [reply.status_code for reply in sender_calls] == [404] * 4


def test_what_was_found_stays_until_the_upload_is_over(api: Api) -> None:
    """The image that has the blocks is deleted and its store collected; the upload still finds and imports them."""
    image = api.make(content=DISK)
    sender = Sender(api)
    assert sender.missing() == []
    assert api.delete(f"/v2/images/{image['id']}").status_code == 204
    api.ended(api.post("/v2/collect", json={}).json()["action"]["id"])

    made = sender.finish()
    assert api.get(f"/v2/images/{made['id']}/export").content == DISK


def test_an_upload_that_is_given_up_leaves_nothing(api: Api) -> None:
    """Its packs and its list of blocks are removed from the store."""
    api.ended(api.post("/v2/collect", json={}).json()["action"]["id"])
    before = api.get("/v2/usage").json()["usage"]
    sender = Sender(api, os.urandom(MIB))
    sender.send()
    sender.describe()
    assert api.delete(sender.path).status_code == 204
    api.ended(api.post("/v2/collect", json={}).json()["action"]["id"])

    assert api.get("/v2/usage").json()["usage"] == before
    assert api.get(sender.path).status_code == 404


def test_a_batch_that_breaks_off_keeps_what_came_whole(api: Api) -> None:
    """A record that is cut off is refused; the ones before it need not be sent again."""
    sender = Sender(api)
    first, second, *rest = sender.missing()
    reply = sender.put(sender.disk.record(first) + sender.disk.record(second)[:-1])

    assert refusal(reply)[0] == 422
    assert "ends within a record" in refusal(reply)[1]
    assert sender.missing() == [second, *rest]


def test_blocks_may_come_plain(api: Api) -> None:
    """A sender without zstd sends plain bytes; the service compresses them."""
    data = b"text " * (MIB // 5) + b"12345" + b"6" * 507
    sender = Sender(api, data[: len(data) // 512 * 512])
    records = b""
    for name, block in sender.disk.blocks.items():
        entry = Entry(bytes.fromhex(name), blake3(block).digest(), 0, len(block), len(block), PLAIN)
        records += record_head(entry) + block
    upload = sender.put(records).json()["upload"]

    assert upload["offset"] < len(data) // 10
    assert api.get(f"/v2/images/{sender.finish()['id']}/export").content == sender.disk.data


def _entry(block: bytes, **changed: Any) -> bytes:
    entry, stored = encode(block_digest(block), memoryview(block))
    return record_head(replace(entry, **changed)) + stored


def _bomb() -> bytes:
    """A frame of few bytes that says, and has, far more than a block."""
    frame = zstandard.ZstdCompressor().compress(bytes(64 * MIB))
    return record_head(Entry(bytes(32), blake3(frame).digest(), 0, len(frame), MIB, ZSTD)) + frame


def _silent() -> bytes:
    """A frame that does not say how long its content is."""
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * MIB))
    return record_head(Entry(bytes(32), blake3(frame).digest(), 0, len(frame), MIB, ZSTD)) + frame


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (b"x" * 80, "must begin with WBLK"),
        (_entry(b"a" * 4096, digest=bytes(32)), "hashes to"),
        (_entry(b"a" * 4096, stored_digest=bytes(32)), "stored bytes hash to"),
        (_entry(b"a" * 4096, plain_length=4097), "its frame has 4096 bytes"),
        (_entry(b"a" * 4096, plain_length=2 * MIB), "a block has 1 to 1048576 bytes"),
        (_entry(b"a" * 4096, codec=2), "codec 0 or 1"),
        (_entry(bytes(4096)), "is all zeros"),
        (_bomb(), "its frame has 67108864 bytes"),
        (_silent(), "its frame has"),
    ],
)
def test_a_record_that_is_not_what_it_says_is_refused(api: Api, records: bytes, reason: str) -> None:
    """Nothing is kept whose name, length or frame is another; and no more is unpacked than a block has."""
    sender = Sender(api)
    status, message = refusal(sender.put(records))

    assert status == 422
    assert reason in message
    assert api.get(sender.path).json()["upload"]["offset"] == 0


def test_a_list_that_is_no_disk_is_refused(api: Api) -> None:
    """The list must have a name for each block of the size, and each named block must be there, as long as it is."""
    sender = Sender(api)
    listed, size = sender.disk.listed, len(sender.disk.data)

    def describe(names: bytes, size: object) -> tuple[int, str]:
        return refusal(api.put(f"{sender.path}/disk", content=names, params={"size": str(size)}))

    assert describe(listed, size) == (422, "4 of the disk's blocks are missing: ask which they are, and send them")
    sender.send()
    assert describe(listed, 0)[0] == describe(listed, 513)[0] == describe(listed, "many")[0] == 422
    assert describe(listed[:-1], size)[1].endswith(f"a disk of {size} bytes has 5 of 32 bytes")
    assert describe(listed[-32:] + listed[32:], size)[1].startswith("Block 0 of the disk has 1048576 bytes")
    assert describe(listed, size + MIB - size % MIB)[0] == 422
    assert describe(bytes(32) * 4_000_000, 4_000_000 * MIB)[0] in {413, 422}


def test_names_are_bounded_and_checked(api: Api) -> None:
    """At most 10,000 names are taken at a time, and each must be one."""
    sender = Sender(api)

    def ask(names: list[str]) -> tuple[int, str]:
        return refusal(api.put(f"{sender.path}/missing", json={"names": names}))

    assert ask(["00" * 32] * 10_001)[0] == 422
    assert "10000" in ask(["00" * 32] * 10_001)[1]
    assert ask(["zz" * 32])[0] == ask(["00" * 31])[0] == 422


def test_bytes_and_blocks_are_not_mixed(api: Api) -> None:
    """An upload takes what it was begun for."""
    by_blocks = Sender(api)
    begun = api.post("/v2/uploads", json={"name": "bytes", "region": "nyc3"}).json()["upload"]
    sent = api.patch(by_blocks.path, content=b"x", headers={"upload-offset": "0"})
    asked = api.put(f"/v2/uploads/{begun['id']}/missing", json={"names": []})

    assert begun["block_size"] is None
    assert refusal(sent) == (422, "Upload was begun by blocks; send its blocks")
    assert refusal(asked) == (422, "Upload was not begun by blocks; send its bytes")


def test_blocks_of_a_file_that_has_a_disk_in_it_are_refused(api: Api) -> None:
    """The blocks of a qcow2 file are no disk, and the import says so; unless the caller says that they are."""
    data = b"QFI\xfb\0\0\0\3" + os.urandom(MIB - 8)
    sender = Sender(api, data)
    sender.send()
    assert "upload the file as it is" in sender.finish()["error_message"]

    meant = Sender(api, data, format="raw")
    assert meant.send() == 0 or meant.missing() == []
    assert meant.finish()["error_message"] == ""
