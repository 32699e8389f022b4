from __future__ import annotations

import json

import pytest

from wherry import errors
from wherry.server.http.edge import STATUS, error_reply

HEADERS = {"x-request-id": "7"}


@pytest.mark.parametrize("kind", errors.RequestError.__subclasses__())
def test_each_error_of_a_request_has_a_status_of_its_own(kind: type[errors.RequestError]) -> None:
    """Every error that a caller can do something about has a status, and its own id on the wire."""
    reply = error_reply(kind("why"), HEADERS)

    assert reply.status_code == STATUS[kind]
    assert f'"id":"{kind.id}","message":"why"'.encode() in reply.body


def test_a_refused_tag_is_told_in_the_older_shape_too() -> None:
    """A tag that can't be is refused as any bad request is, with the fields beside it that DigitalOcean sends there."""
    reply = error_reply(errors.TagRefused("why"), HEADERS)

    assert reply.status_code == 400
    assert json.loads(bytes(reply.body)) == {
        "id": "bad_request", "message": "why", "request_id": "7", "error": "why", "messages": None,
        "root_causes": ["why"],
    }  # fmt: skip


def test_an_error_below_another_one_has_its_status() -> None:
    """Every error of a request, however deep in the tree, is answered with the status of what it is a kind of."""
    for kind in errors.RequestError.__subclasses__():
        for below in kind.__subclasses__():
            assert error_reply(below("why"), HEADERS).status_code == STATUS[kind]


def test_what_was_not_foreseen_is_not_told() -> None:
    """An error of another kind is answered 500 in DigitalOcean's words, without its own."""
    reply = error_reply(ValueError("a secret"), HEADERS)

    assert reply.status_code == 500
    assert b"Unexpected server-side error" in reply.body
    assert b"secret" not in reply.body


def test_what_callers_are_told_names_no_object_and_no_place() -> None:
    """Keys and folders are for the log; the rest of the message stays."""
    for told, public in (
        ("packs/ab/abcd is not in /srv/wherry", "an object is not in the store"),
        ("packs/ab/abcd is not in s3://bucket/prefix", "an object is not in the store"),
        ("the disk of nyc3 is full", "the disk of nyc3 is full"),
        ("3 of 4 objects can't be read/written", "3 of 4 objects can't be read/written"),
    ):
        assert errors.StorageError(told).public_message == public


@pytest.mark.parametrize("kind", [errors.ManifestMissing, errors.ManifestCorrupt])
def test_a_lost_manifest_is_nothing_to_try_again(kind: type[errors.StorageError]) -> None:
    """The caller is told what is lost, and neither to repeat the request nor where the manifest lay."""
    reply = error_reply(kind("manifests/ab/abcd is not in its store"), HEADERS)
    assert (reply.status_code, reply.headers["x-should-retry"]) == (422, "false")
    assert b"list of" in reply.body
    assert b"manifests/" not in reply.body
