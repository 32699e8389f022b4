"""Disks of Droplets on the wire: exported in any range, replaced by what is sent, and snapshots of either."""

from __future__ import annotations

import gzip
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx2
    from tests.contract.api.conftest import Api, Shelf

MIB = 1 << 20
BUSY = "Droplet already has a pending event."
GONE = "The resource you were accessing could not be found."
DISK = random.Random(7).randbytes(4 * MIB)


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def put(api: Api, droplet_id: int, disk: bytes, **query: Any) -> httpx2.Response:
    """Ask that a Droplet's disk be replaced."""
    return api.put(f"/v2/droplets/{droplet_id}/disk", content=disk, params=query)


def replaced(api: Api, droplet_id: int, disk: bytes, **query: Any) -> Any:
    """Replace a Droplet's disk, wait until that has ended, and answer the action."""
    reply = put(api, droplet_id, disk, **query)
    assert reply.status_code == 201, reply.text
    return api.ended(reply.json()["action"]["id"])


def disk_of(api: Api, droplet_id: int) -> bytes:
    """A Droplet's disk."""
    return api.get(f"/v2/droplets/{droplet_id}/disk").raise_for_status().content


def begin_upload(api: Api, droplet_id: int) -> str:
    """Begin an upload for a Droplet's disk; answers its id."""
    reply = api.post("/v2/uploads", json={"droplet_id": droplet_id})
    assert reply.status_code == 201, reply.text
    upload_id: str = reply.json()["upload"]["id"]
    return upload_id


def append(api: Api, upload_id: str, offset: int, data: bytes) -> httpx2.Response:
    """Send a piece of an upload."""
    return api.patch(f"/v2/uploads/{upload_id}", content=data, headers={"upload-offset": str(offset)})


@pytest.fixture
def droplet(api: Api) -> int:
    """A Droplet with a disk of four blocks that are all different."""
    droplet_id: int = api.droplet(api.make("custom", content=DISK)["id"])["id"]
    return droplet_id


# ----------------------------------------------------------------------------------------------------------- export


def test_a_disk_is_read_as_a_file(api: Api, droplet: int) -> None:
    """A disk is sent with its length, its name, and a fingerprint by which it can be checked."""
    reply = api.get(f"/v2/droplets/{droplet}/disk")

    assert (reply.status_code, reply.content) == (200, DISK)
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-length"] == str(len(DISK))
    assert reply.headers["content-disposition"] == f'attachment; filename="droplet-{droplet}.raw"'
    head = api.head(f"/v2/droplets/{droplet}/disk")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("wherry-fingerprint", "etag", "content-length", "accept-ranges"):
        assert head.headers[name] == reply.headers[name]


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("0-0", 0, 1),
        (f"{MIB - 1}-{MIB}", MIB - 1, MIB + 1),
        (f"{3 * MIB}-", 3 * MIB, 4 * MIB),
        ("-5", 4 * MIB - 5, None),
    ],
)
def test_a_range_of_a_disk_is_answered_alone(api: Api, droplet: int, asked: str, start: int, stop: int | None) -> None:
    """Ranges of a disk are answered 206 with their bytes and their place, across blocks too."""
    reply = api.get(f"/v2/droplets/{droplet}/disk", headers={"range": f"bytes={asked}"})

    assert (reply.status_code, reply.content) == (206, DISK[start:stop])
    assert reply.headers["content-range"] == f"bytes {start}-{(stop or len(DISK)) - 1}/{len(DISK)}"


def test_a_range_outside_a_disk_is_refused(api: Api, droplet: int) -> None:
    """A range that no byte lies in is answered 416; a format that there is not, 422."""
    path = f"/v2/droplets/{droplet}/disk"

    assert api.get(path, headers={"range": f"bytes={len(DISK)}-"}).status_code == 416
    wanted = "format is 'vhd'; it may be raw, qcow2, vmdk, vdi, vhdx"
    assert refusal(api.get(path, params={"format": "vhd"})) == (422, wanted)


def test_the_etag_of_a_disk_changes_with_it(api: Api, droplet: int) -> None:
    """With If-Range, a download that was broken off is not continued with another disk's bytes."""
    path = f"/v2/droplets/{droplet}/disk"
    etag = api.head(path).headers["etag"]
    replaced(api, droplet, b"another")

    reply = api.get(path, headers={"range": "bytes=0-3", "if-range": etag})

    assert reply.status_code == 200
    assert reply.content.startswith(b"another")


# ----------------------------------------------------------------------------------------------------------- import


@pytest.mark.parametrize("form", ["raw", "gzip", "qcow2"])
def test_a_disk_is_replaced_in_several_formats(api: Api, droplet: int, form: str) -> None:
    """A disk is taken raw, compressed, or as qcow2, and then reads as these bytes."""
    other = random.Random(8).randbytes(2 * MIB)
    sent = {"raw": other, "gzip": gzip.compress(other)}.get(form) or as_qcow2(api, other)

    done = replaced(api, droplet, sent)

    assert (done["status"], done["type"], done["error"]) == ("completed", "disk_import", None)
    assert (done["resource_id"], done["resource_type"], done["region_slug"]) == (droplet, "droplet", "nyc3")
    assert disk_of(api, droplet) == other
    assert api.seen(droplet)["status"] == "active"


def as_qcow2(api: Api, disk: bytes) -> bytes:
    """These bytes as a qcow2 file."""
    return api.get(f"/v2/images/{api.make(content=disk)['id']}/export", params={"format": "qcow2"}).content


def test_an_export_can_be_put_back(api: Api, droplet: int) -> None:
    """What was exported as qcow2 restores the disk."""
    exported = api.get(f"/v2/droplets/{droplet}/disk", params={"format": "qcow2"}).content
    replaced(api, droplet, b"something else")

    replaced(api, droplet, exported)

    assert exported.startswith(b"QFI\xfb")
    assert disk_of(api, droplet) == DISK


def test_only_blocks_that_changed_are_stored(api: Api, droplet: int) -> None:
    """Of a disk of which one block changed, one block is sent and the others are reused."""
    changed = DISK[: 2 * MIB] + b"new" + DISK[2 * MIB + 3 :]

    progress = replaced(api, droplet, changed)["progress"]

    assert (progress["blocks_sent"], progress["blocks_reused"]) == (1, 3)
    assert (progress["stage"], progress["percent"]) == ("done", 100.0)
    assert disk_of(api, droplet) == changed
    assert replaced(api, droplet, changed)["progress"]["blocks_sent"] == 0


def test_snapshots_have_the_bytes_of_their_time(api: Api, droplet: int) -> None:
    """A snapshot taken before a change has the old bytes, one taken after it the new ones, also when all else goes."""
    before = api.snapshot(droplet)["id"]
    new = b"new".ljust(MIB, b"n") + DISK[MIB:]
    replaced(api, droplet, new)
    after = api.snapshot(droplet)["id"]
    api.delete(f"/v2/droplets/{droplet}")
    api.ended(api.post("/v2/collect", json={}).json()["action"]["id"])

    exports = [api.get(f"/v2/images/{one}/export").content for one in (before, after)]

    assert exports == [DISK, new]
    api.delete(f"/v2/snapshots/{before}")
    api.ended(api.post("/v2/collect", json={}).json()["action"]["id"])
    assert api.get(f"/v2/images/{after}/export").content == new


@pytest.mark.parametrize(
    ("sent", "code"), [(b"QFI\xfb" + b"\xff" * 600, "image_invalid"), (gzip.compress(DISK)[:-500], "image_invalid")]
)
def test_a_disk_that_is_broken_leaves_the_old_one(api: Api, droplet: int, sent: bytes, code: str) -> None:
    """A file that is no disk image ends the action as errored, and the Droplet has its old disk."""
    done = replaced(api, droplet, sent)

    assert (done["status"], done["error"]["code"], done["error"]["retryable"]) == ("errored", code, False)
    assert disk_of(api, droplet) == DISK
    assert not api.seen(droplet)["locked"]


def test_a_disk_too_large_for_the_size_leaves_the_old_one(api: Api, droplet: int) -> None:
    """A disk must fit into the size; how large a sparse file is shows only when it is read."""
    large = bytearray(as_qcow2(api, b"x" * MIB))
    large[24:32] = (26 << 30).to_bytes(8, "big")
    large[36:40] = (52).to_bytes(4, "big")  # entries of the first table: one for each 512 MiB

    done = replaced(api, droplet, bytes(large))

    assert (done["status"], done["error"]["code"]) == ("errored", "image_too_large")
    assert disk_of(api, droplet) == DISK
    api.done(droplet, "power_off")
    api.done(droplet, "resize", size="s-1vcpu-2gb", disk=True)


@pytest.mark.parametrize("error", ["store_full", "store_unavailable"])
def test_a_store_that_fails_leaves_the_old_disk(api: Api, droplet: int, error: str) -> None:
    """An import that errors can be begun again, and then succeeds."""
    api.post("/_wherry/faults", json={"action": "disk_import", "region": "nyc3", "error": error}).raise_for_status()

    done = replaced(api, droplet, b"new")

    assert (done["status"], done["error"]["code"]) == ("errored", error)
    assert disk_of(api, droplet) == DISK
    assert replaced(api, droplet, b"new")["status"] == "completed"


def test_a_disk_of_no_bytes_is_refused(api: Api, droplet: int) -> None:
    """Nothing is no disk; and what was begun for it is gone."""
    assert refusal(put(api, droplet, b"")) == (422, "Upload is empty")
    assert disk_of(api, droplet) == DISK


def test_a_busy_droplet_keeps_its_disk(api: Api, droplet: int, occupy: Callable[[], None], shelf: Shelf) -> None:
    """While another action runs no disk is taken; while one is taken no other action is."""
    occupy()
    api.do(droplet, "reboot")
    assert refusal(put(api, droplet, b"x")) == (422, BUSY)
    shelf.released.set()
    api.waited(f"/v2/droplets/{droplet}", lambda found: not found["droplet"]["locked"])
    assert disk_of(api, droplet) == DISK


def test_while_a_disk_is_taken_its_droplet_is_locked(
    api: Api, droplet: int, occupy: Callable[[], None], shelf: Shelf
) -> None:
    """An import is an action: it locks the Droplet, and the old disk counts until it has ended."""
    occupy()
    begun = put(api, droplet, b"new").json()["action"]

    assert (begun["status"], begun["type"]) == ("in-progress", "disk_import")
    assert api.seen(droplet)["locked"]
    assert refusal(api.do(droplet, "snapshot")) == (422, BUSY)
    assert refusal(api.delete(f"/v2/droplets/{droplet}")) == (422, BUSY)
    assert disk_of(api, droplet) == DISK
    shelf.released.set()
    assert api.ended(begun["id"])["status"] == "completed"
    assert disk_of(api, droplet).startswith(b"new")


# ---------------------------------------------------------------------------------------------------------- uploads


def test_a_disk_comes_in_pieces(api: Api, droplet: int) -> None:
    """An upload that was begun for a Droplet needs nothing else, goes on where it stopped, and becomes the disk."""
    upload_id = begin_upload(api, droplet)
    other = random.Random(9).randbytes(3 * MIB)
    append(api, upload_id, 0, other[:MIB])
    upload = api.get(f"/v2/uploads/{upload_id}").json()["upload"]
    assert (upload["offset"], upload["droplet_id"], upload["region"], upload["status"]) == (
        MIB,
        droplet,
        "nyc3",
        "open",
    )
    append(api, upload_id, MIB, other[MIB:])

    first, again = (put(api, droplet, b"", upload_id=upload_id) for _ in range(2))

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["action"]["id"] == again.json()["action"]["id"]
    assert api.ended(first.json()["action"]["id"])["status"] == "completed"
    assert disk_of(api, droplet) == other
    assert api.get(f"/v2/uploads/{upload_id}").json()["upload"]["status"] == "finished"


def test_an_upload_is_for_the_droplet_that_it_was_begun_for(api: Api, droplet: int) -> None:
    """Another Droplet does not take it, nor does an upload of an image become a disk, nor one of a disk an image."""
    other = api.droplet()["id"]
    for_disk = begin_upload(api, droplet)
    for_image = api.post("/v2/uploads", json={"name": "image", "region": "nyc3"}).json()["upload"]["id"]
    for upload_id in (for_disk, for_image):
        append(api, upload_id, 0, b"bytes")

    wrong = "Upload is not for the disk of this Droplet"
    assert refusal(put(api, other, b"", upload_id=for_disk)) == (422, wrong)
    assert refusal(put(api, droplet, b"", upload_id=for_image)) == (422, wrong)
    assert refusal(api.post(f"/v2/uploads/{for_disk}/finish")) == (
        422, f"Upload is for a disk: PUT /v2/droplets/{droplet}/disk?upload_id={for_disk}",
    )  # fmt: skip
    assert refusal(put(api, droplet, b"", upload_id="unknown")) == (404, GONE)
    assert refusal(api.post("/v2/uploads", json={"droplet_id": 1})) == (404, GONE)


def test_an_upload_without_bytes_does_not_become_a_disk(api: Api, droplet: int) -> None:
    """An upload of which nothing came is refused, and is open still."""
    upload_id = begin_upload(api, droplet)

    assert refusal(put(api, droplet, b"", upload_id=upload_id)) == (422, "Upload is empty")
    assert api.get(f"/v2/uploads/{upload_id}").json()["upload"]["status"] == "open"


def test_an_upload_waits_while_its_droplet_is_busy(
    api: Api, droplet: int, occupy: Callable[[], None], shelf: Shelf
) -> None:
    """An upload that is refused since the Droplet is busy is not lost."""
    upload_id = begin_upload(api, droplet)
    append(api, upload_id, 0, b"waited")
    occupy()
    api.do(droplet, "reboot")

    assert refusal(put(api, droplet, b"", upload_id=upload_id)) == (422, BUSY)
    shelf.released.set()
    api.waited(f"/v2/droplets/{droplet}", lambda found: not found["droplet"]["locked"])

    assert replaced(api, droplet, b"", upload_id=upload_id)["status"] == "completed"
    assert disk_of(api, droplet).startswith(b"waited")


def test_an_import_that_is_repeated_under_its_key_is_begun_once(api: Api, droplet: int) -> None:
    """The same disk under the same Idempotency-Key answers the first one's action; another disk is refused."""
    path, headers = f"/v2/droplets/{droplet}/disk", {"idempotency-key": "disk"}
    first, again = (api.put(path, content=b"one", headers=headers) for _ in range(2))

    other = api.put(path, content=b"two", headers=headers)

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["action"]["id"] == again.json()["action"]["id"]
    assert refusal(other) == (422, "Idempotency-Key was used for another request within the last 24 hours")
    api.ended(first.json()["action"]["id"])
    assert disk_of(api, droplet).startswith(b"one")


# ------------------------------------------------------------------------------------------------------- at once


@pytest.mark.parametrize("of", ["droplet", "image"])
def test_an_export_ends_whatever_becomes_of_what_it_reads(api: Api, of: str) -> None:
    """A disk that is replaced, or an image that is deleted, while it is read is read to its end, and collected then."""
    disk = random.Random(8).randbytes(48 * MIB)
    image = api.make(content=disk)["id"]
    droplet = api.droplet(image)["id"]
    if of == "droplet":
        api.delete(f"/v2/images/{image}").raise_for_status()
    path = f"/v2/droplets/{droplet}/disk" if of == "droplet" else f"/v2/images/{image}/export"
    with api.stream("GET", path) as reply:
        parts = reply.iter_raw(MIB)
        got = [next(parts)]
        if of == "droplet":
            replaced(api, droplet, b"other bytes")
        else:
            api.delete(f"/v2/droplets/{droplet}").raise_for_status()
            api.delete(f"/v2/images/{image}").raise_for_status()
        api.ended(api.post("/v2/collect", json={}).json()["action"]["id"])
        assert b"".join([*got, *parts]) == disk
    api.ended(api.post("/v2/collect", json={}).json()["action"]["id"])
    assert api.post("/v2/collect", json={"dry_run": True}).json()["plan"] == []


def test_an_upload_is_not_finished_while_a_piece_comes_in(api: Api, droplet: int) -> None:
    """What is still coming in is neither imported nor given up; afterwards it is."""
    upload = begin_upload(api, droplet)
    refused = []

    def piece() -> Iterator[bytes]:
        yield DISK[:MIB]
        while (answer := refusal(put(api, droplet, b"", upload_id=upload)))[1] == "Upload is empty":
            threading.Event().wait(0.01)  # the piece has not begun to come in
        refused.append(answer)
        refused.append(refusal(api.delete(f"/v2/uploads/{upload}")))
        yield DISK[MIB:]

    api.patch(f"/v2/uploads/{upload}", content=piece(), headers={"upload-offset": "0"}).raise_for_status()

    assert refused == [(422, "Another piece of this upload is coming in")] * 2
    assert api.ended(put(api, droplet, b"", upload_id=upload).json()["action"]["id"])["status"] == "completed"
    assert disk_of(api, droplet) == DISK


@pytest.mark.parametrize(
    ("asked", "status"), [("-" + "9" * 5000, 206), ("9" * 5000 + "-", 416), ("0-" + "9" * 5000, 200)]
)
def test_a_range_may_name_any_number(api: Api, droplet: int, asked: str, status: int) -> None:
    """A number that no disk reaches is taken for what it means."""
    reply = api.get(f"/v2/droplets/{droplet}/disk", headers={"range": f"bytes={asked}"})

    assert reply.status_code in {status, 200}, reply.text[:200]


def test_an_upload_for_a_disk_needs_the_scope_of_the_droplet(scoped: Callable[..., Api], droplet: int) -> None:
    """To begin one, droplet:update is needed as well."""
    assert scoped("image:create").post("/v2/uploads", json={"droplet_id": droplet}).status_code == 403
    both = scoped("image:create", "droplet:update")
    assert both.post("/v2/uploads", json={"droplet_id": droplet}).status_code == 201
