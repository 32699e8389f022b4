"""Public SSH keys as they stand in a ``.pub`` file: what is one, and its fingerprint. Pure."""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass
from hashlib import md5

from wherry.errors import Unprocessable

INVALID = "Key invalid, key should be of the format `type key [comment]`"
_TYPES = re.compile(r"ssh-(rsa|dss|ed25519)|ecdsa-sha2-[\w.-]+|sk-[\w.-]+@openssh\.com", re.ASCII)
_LENGTH_BYTES = 4
_FEWEST_FIELDS = 2  # the type, and what the key itself is made of


@dataclass(frozen=True)
class PublicKey:
    """A public key: the line as it was given, and the MD5 of its blob in pairs of hexadecimal digits."""

    line: str
    fingerprint: str


def read_public_key(text: str | None) -> PublicKey:
    """Read a line ``type key [comment]``. Raises Unprocessable for anything else.

    It ends up in a file that has a key a line, so that it must be one line; and its blob must be whole and of the
    type that stands before it, or a login with it would fail much later.
    """
    line = (text or "").strip()
    kind, _, rest = line.partition(" ")
    if not line.isprintable() or not _TYPES.fullmatch(kind):
        raise Unprocessable(INVALID)
    try:
        blob = b64decode(rest.strip().partition(" ")[0], validate=True)
    except ValueError as error:
        raise Unprocessable(INVALID) from error
    fields = _fields(blob)
    if len(fields) < _FEWEST_FIELDS or fields[0] != kind.encode():
        raise Unprocessable(INVALID)
    return PublicKey(line, md5(blob, usedforsecurity=False).digest().hex(":"))


def _fields(blob: bytes) -> list[bytes]:
    """The fields of a key, each with its length before it; none at all if they do not fill the blob exactly."""
    fields, at = [], 0
    while at < len(blob):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(blob[at:start], "big")
        fields.append(blob[start:at])
    return fields if at == len(blob) else []
