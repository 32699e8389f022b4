"""Bytes in and out: exports and their ranges, resumable uploads, and which URLs an import may read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import httpx2
    from tests.contract.api.conftest import Api, Shelf

DISK = bytes(range(256)) * 8


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def begin_upload(api: Api) -> str:
    """Begin an upload and answer its path."""
    reply = api.post("/v2/uploads", json={"name": "uploaded", "region": "nyc3"})
    assert reply.status_code == 201
    return f"/v2/uploads/{reply.json()['upload']['id']}"


def append(api: Api, path: str, offset: int, data: bytes) -> httpx2.Response:
    """Send a piece of an upload."""
    return api.patch(path, content=data, headers={"upload-offset": str(offset)})


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("0-0", 0, 1), ("5-9", 5, 10), ("2000-", 2000, 2048), ("-10", 2038, 2048), ("2040-9999", 2040, 2048)],
)
def test_a_range_of_an_export_is_answered_alone(api: Api, asked: str, start: int, stop: int) -> None:
    """A range, an open one and a suffix are answered 206 with their bytes and their place."""
    path = f"/v2/images/{api.make(content=DISK)['id']}/export"

    reply = api.get(path, headers={"range": f"bytes={asked}"})

    assert (reply.status_code, reply.content) == (206, DISK[start:stop])
    assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/2048"
    assert reply.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["2048-", "9999-10000", "-0"])
def test_a_range_outside_the_export_is_refused(api: Api, asked: str) -> None:
    """A range that no byte lies in is answered 416."""
    reply = api.get(f"/v2/images/{api.make(content=DISK)['id']}/export", headers={"range": f"bytes={asked}"})

    assert (reply.status_code, reply.json()["id"]) == (416, "range_not_satisfiable")


def test_a_range_counts_only_of_the_bytes_that_were_meant(api: Api) -> None:
    """With If-Range, the range is answered where the etag is the same, and all of it where it is not."""
    path = f"/v2/images/{api.make(content=DISK)['id']}/export"
    etag = api.head(path).headers["etag"]

    same = api.get(path, headers={"range": "bytes=0-1", "if-range": etag})
    other = api.get(path, headers={"range": "bytes=0-1", "if-range": '"other"'})

    assert (same.status_code, other.status_code) == (206, 200)
    assert other.content == DISK


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vdi", "vhdx"])
def test_an_export_can_be_imported_again(api: Api, shelf: Shelf, kind: str) -> None:
    """An export in a format is an image file of its own, which imports to the same bytes, and is sent by ranges."""
    path = f"/v2/images/{api.make(content=DISK)['id']}/export"
    exported = api.get(path, params={"format": kind})
    shelf.files[f"/again.{kind}"] = exported.content
    tail = api.get(path, params={"format": kind}, headers={"range": "bytes=-1000"})

    image = api.settled(api.import_from(shelf.url(f"/again.{kind}")).json()["image"]["id"])

    assert image["error_message"] == ""
    assert exported.headers["content-disposition"].endswith(f'.{kind}"')
    assert tail.content == exported.content[-1000:]
    assert api.get(f"/v2/images/{image['id']}/export").content == DISK


@pytest.mark.parametrize(("kind", "suffix"), [("zstd", ".zst"), ("gzip", ".gz")])
def test_a_raw_export_is_compressed_while_it_is_sent(api: Api, shelf: Shelf, kind: str, suffix: str) -> None:
    """It has no size and no ranges, and imports again as the same disk."""
    path = f"/v2/images/{api.make(content=DISK)['id']}/export"
    exported = api.get(path, params={"compress": kind}, headers={"range": "bytes=0-9"})
    shelf.files[f"/again{suffix}"] = exported.content

    image = api.settled(api.import_from(shelf.url(f"/again{suffix}")).json()["image"]["id"])

    assert exported.status_code == 200
    assert exported.headers["content-disposition"].endswith(f'.raw{suffix}"')
    assert "content-length" not in exported.headers
    assert len(exported.content) < len(DISK)
    assert image["error_message"] == ""
    assert api.get(f"/v2/images/{image['id']}/export").content == DISK


def test_the_head_of_a_compressed_export_states_no_size(api: Api) -> None:
    """It is not known before the export has been made."""
    path = f"/v2/images/{api.make(content=DISK)['id']}/export"
    assert "content-length" not in api.head(path, params={"compress": "zstd"}).headers
    assert api.head(path).headers["content-length"] == str(len(DISK))


def test_only_a_raw_export_is_compressed(api: Api) -> None:
    """A qcow2 file is read here and there: it is of no use in a compressed stream."""
    path = f"/v2/images/{api.make(content=DISK)['id']}/export"
    reply = api.get(path, params={"compress": "zstd", "format": "qcow2"})
    assert refusal(reply) == (422, "compress is zstd; only a raw export is compressed")
    assert api.get(path, params={"compress": "lz4"}).status_code == 422


def test_an_upload_goes_on_where_it_stopped(api: Api) -> None:
    """Pieces are taken one after the other; a wrong offset is refused and told the right one."""
    path = begin_upload(api)
    append(api, path, 0, DISK[:1000])

    assert refusal(append(api, path, 0, DISK)) == (422, "Upload-Offset is 0; the next byte wanted is 1000")
    assert api.get(path).json()["upload"]["offset"] == 1000
    assert append(api, path, 1000, DISK[1000:]).json()["upload"]["offset"] == len(DISK)
    first, again = api.post(f"{path}/finish"), api.post(f"{path}/finish/")
    image = api.settled(first.json()["image"]["id"])

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["links"] == first.json()["links"]
    assert api.get(f"/v2/images/{image['id']}/export").content == DISK
    assert refusal(append(api, path, len(DISK), b"x")) == (422, "Upload is already finished")


def test_an_upload_without_bytes_or_an_offset_is_refused(api: Api) -> None:
    """Nothing can't be imported, and a piece must say where it begins."""
    path = begin_upload(api)

    assert refusal(api.post(f"{path}/finish")) == (422, "Upload is empty")
    assert refusal(api.patch(path, content=b"x")) == (422, "Upload-Offset is missing")
    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404
