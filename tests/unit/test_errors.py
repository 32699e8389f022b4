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
