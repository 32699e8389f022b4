from __future__ import annotations

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


def test_what_was_not_foreseen_is_not_told() -> None:
    """An error of another kind is answered 500 in DigitalOcean's words, without its own."""
    reply = error_reply(ValueError("a secret"), HEADERS)

    assert reply.status_code == 500
    assert b"Unexpected server-side error" in reply.body
    assert b"secret" not in reply.body
