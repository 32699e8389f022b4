"""SSH keys on the wire: what is one, how it is named, and the texts of refusals."""

from __future__ import annotations

from base64 import b64encode
from hashlib import md5
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2
    from tests.contract.api.conftest import Api

KEYS = "/v2/account/keys"
GONE = "The resource you were accessing could not be found."
INVALID = "Key invalid, key should be of the format `type key [comment]`"
IN_USE = "SSH Key is already in use on your account"


def blob(seed: int, kind: bytes = b"ssh-ed25519") -> bytes:
    """The inside of a key, as ssh makes it."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in (kind, bytes([seed]) * 32))


def line(seed: int = 1, comment: str = "me@example") -> str:
    """A public key as it stands in a file."""
    return f"ssh-ed25519 {b64encode(blob(seed)).decode()} {comment}"


def add(api: Api, seed: int = 1, name: str = "mine") -> Any:
    """Keep a key and answer it."""
    reply = api.post(KEYS, json={"name": name, "public_key": line(seed)})
    assert reply.status_code == 201, reply.text
    return reply.json()["ssh_key"]


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def test_a_key_is_answered_with_its_fingerprint(api: Api) -> None:
    """A key is kept under an id with the MD5 of its inside, and listed, newest first."""
    key = add(api)
    newer = add(api, 2, "newer")

    assert key == {
        "id": key["id"], "fingerprint": md5(blob(1)).digest().hex(":"), "public_key": line(1), "name": "mine",
    }  # fmt: skip
    assert api.get(KEYS).json() == {"ssh_keys": [newer, key], "links": {}, "meta": {"total": 2}}


def test_a_key_is_named_by_its_id_or_its_fingerprint(api: Api) -> None:
    """Reading, renaming and deleting take either."""
    first, second = add(api, 1), add(api, 2)

    for key, word in ((first, first["id"]), (second, second["fingerprint"]), (second, second["fingerprint"].upper())):
        path = f"{KEYS}/{word}"
        assert api.get(path).json()["ssh_key"]["id"] == key["id"]
        renamed = api.put(path, json={"name": f"renamed {word}"})
        assert (renamed.status_code, renamed.json()["ssh_key"]) == (200, {**key, "name": f"renamed {word}"})
    for word in (first["id"], second["fingerprint"]):
        reply = api.delete(f"{KEYS}/{word}")
        assert (reply.status_code, reply.content) == (204, b"")
        assert refusal(api.delete(f"{KEYS}/{word}")) == (404, GONE)
    assert api.get(KEYS).json()["ssh_keys"] == []


@pytest.mark.parametrize(
    "word", ["1", "0", "-1", str(2**53), str(2**64), "9" * 40, "aa:bb:cc", "x", "\u0661", "%00", "1.0"]
)
def test_a_key_that_is_not_there_is_not_found(api: Api, word: str) -> None:
    """No word that names no key is anything but not found."""
    path = f"{KEYS}/{word}"

    assert refusal(api.get(path)) == (404, GONE)
    assert refusal(api.put(path, json={"name": "x"})) == (404, GONE)
    assert refusal(api.delete(path)) == (404, GONE)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "Name can't be blank"),
        ({"name": "", "public_key": line()}, "Name can't be blank"),
        ({"name": "  ", "public_key": line()}, "Name can't be blank"),
        ({"name": None, "public_key": line()}, "Name can't be blank"),
        ({"name": "x" * 256, "public_key": line()}, "Name is too long (maximum is 255 characters)"),
        ({"name": "mine"}, INVALID),
        ({"name": "mine", "public_key": None}, INVALID),
        ({"name": "mine", "public_key": "ssh-ed25519"}, INVALID),
        ({"name": "mine", "public_key": line().replace("ssh-ed25519", "ssh-rsa")}, INVALID),
        ({"name": "mine", "public_key": f"{line()}\n{line(2)}"}, INVALID),
    ],
)
def test_a_key_that_can_not_be_is_refused(api: Api, body: dict[str, Any], text: str) -> None:
    """What is missing or wrong is refused in DigitalOcean's words, and nothing is kept."""
    assert refusal(api.post(KEYS, json=body)) == (422, text)
    assert api.get(KEYS).json()["ssh_keys"] == []


def test_a_key_is_kept_once(api: Api, other: Api) -> None:
    """The same key under another name or comment is refused; another account may have it as well."""
    add(api)

    again = api.post(KEYS, json={"name": "again", "public_key": line(1, "another comment")})

    assert refusal(again) == (422, IN_USE)
    assert add(other)["fingerprint"] == api.get(KEYS).json()["ssh_keys"][0]["fingerprint"]


@pytest.mark.parametrize("body", [{}, {"name": None}, {"name": ""}, {"name": " "}])
def test_a_key_is_not_renamed_to_nothing(api: Api, body: dict[str, Any]) -> None:
    """A new name must be one; the old one stays."""
    key = add(api)

    assert refusal(api.put(f"{KEYS}/{key['id']}", json=body)) == (422, "Name can't be blank")
    assert api.get(f"{KEYS}/{key['id']}").json()["ssh_key"] == key


def test_a_key_comes_with_its_line_end(api: Api) -> None:
    """The line end of a file is no part of the key."""
    reply = api.post(KEYS, json={"name": "mine", "public_key": f"{line()}\n"})

    assert reply.json()["ssh_key"]["public_key"] == line()
