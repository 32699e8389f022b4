"""The keys that a region's objects are sealed with: read from text, one a line, and never shown again.

    2026-a:mNYG0nVq…=       an id, a colon, 32 random bytes in base64
    2025:7xwQkVZk…=         the first key seals what is new, the others only open what they sealed

An id has up to 32 letters, digits, dots, dashes and underscores. Empty lines, and those that begin with ``#``, count
for nothing.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wherry.errors import BadRequest, KeyMissing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET_SIZE = 32
CHECK_SIZE = 16

_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")


@dataclass(frozen=True)
class Key:
    """One key. Its secret encrypts nothing itself: keys of single objects are derived from it."""

    id: str
    secret: bytes = field(repr=False)

    @property
    def check(self) -> bytes:
        """What tells this key from another one of the same id. It says nothing about the secret."""
        return self.derive(b"", b"wherry key check", CHECK_SIZE)

    def derive(self, salt: bytes, purpose: bytes, length: int = SECRET_SIZE) -> bytes:
        """A key of its own for each salt and purpose, by HKDF-SHA256."""
        return HKDF(algorithm=SHA256(), length=length, salt=salt, info=purpose).derive(self.secret)


@dataclass(frozen=True)
class Keyring:
    """The keys at hand. The first one seals new objects, all of them open."""

    keys: tuple[Key, ...]

    @property
    def sealing(self) -> Key:
        """The key that seals new objects."""
        return self.keys[0]

    def find(self, key_id: str, check: bytes, what: str) -> Key:
        """The key that sealed ``what``. Raises KeyMissing, which says whether the id or the key is another one."""
        for key in self.keys:
            if key.id == key_id:
                if key.check != check:
                    raise KeyMissing(f"{what} is sealed with a key {key_id}, but not with the one given under this id")
                return key
        raise KeyMissing(f"{what} is sealed with the key {key_id}; given are {', '.join(key.id for key in self.keys)}")


def load_keyring(env: str | None, file: Path | None) -> Keyring:
    """The keys in an environment variable's value, or in a file.

    Raises BadRequest if none of them is given, or both; if the file can't be read; or for the first line that is wrong.
    The message names that line and never repeats what stands there.
    """
    if (env is None) == (file is None):
        found = "neither" if env is None else "both"
        raise BadRequest(f"Keys are given in an environment variable or in a file; found {found}.")
    if file is None:
        return parse_keyring(env or "", "the environment")
    try:
        text = file.read_text(encoding="ascii")
    except OSError as error:
        raise BadRequest(f"The keys in {file} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise BadRequest(f"{file} is no file of keys: it has bytes other than ASCII.") from None  # it quotes them
    return parse_keyring(text, str(file))


def parse_keyring(text: str, where: str) -> Keyring:
    """Read keys, one a line. Raises BadRequest for the first line that is wrong, and if there is no key."""
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (stripped := line.strip()) or stripped.startswith("#"):
            continue
        key = _parse_line(stripped, f"Line {number} of the keys in {where}")
        if key.id in keys:
            raise BadRequest(f"Line {number} of the keys in {where}: the id {key.id} is there already.")
        keys[key.id] = key
    if not keys:
        raise BadRequest(f"There is no key in {where}; a line is 'id:base64 of {SECRET_SIZE} bytes'.")
    return Keyring(tuple(keys.values()))


def new_key_line(random: Callable[[int], bytes] = os.urandom) -> str:
    """A line with a new key under a new id."""
    return f"{random(4).hex()}:{base64.b64encode(random(SECRET_SIZE)).decode()}"


def _parse_line(line: str, where: str) -> Key:
    key_id, colon, encoded = line.partition(":")
    if not colon:
        raise BadRequest(f"{where}: there is no colon between id and key.")
    if not _ID.fullmatch(key_id):
        raise BadRequest(f"{where}: an id has 1 to 32 letters, digits, dots, dashes and underscores.")
    try:
        secret = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{where}: the key is not in base64.") from None  # the cause may quote it
    if len(secret) != SECRET_SIZE:
        raise BadRequest(f"{where}: the key has {len(secret)} bytes; {SECRET_SIZE} are wanted.")
    return Key(key_id, secret)
