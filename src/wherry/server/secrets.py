"""What is secret of an action that goes on: sealed in the catalog by a key that lies beside it, never in it.

A copy of the catalog alone shows nothing of it. The key is a file of the data folder, made at the first start; several
processes on one database share theirs by ``WHERRY_SECRET_KEYS``, as a region's keys are written.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from contextlib import suppress
from hashlib import blake2b
from hmac import compare_digest
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wherry.errors import KeyMissing, Unavailable
from wherry.server.machine.durable import sync_folder
from wherry.server.outside import shown
from wherry.server.storage.keyring import CHECK_SIZE, Keyring, load_keyring, new_key_line, parse_keyring

if TYPE_CHECKING:
    from pathlib import Path

    from wherry.server.storage.keyring import Key

SECRET_KEYS = "WHERRY_SECRET_KEYS"  # noqa: S105  a variable's name

_PURPOSE = b"wherry secrets of actions"
_MARK_PURPOSE = b"wherry marks of requests"
_SALT_SIZE, _NONCE_SIZE, _MARK_SIZE = 16, 12, 15


class Secrets:
    """Seals short secrets. The first key of the ring seals, each opens what it sealed."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def seal(self, secret: bytes) -> str:
        """The secret as a text that only a holder of the key can read."""
        key, salt, nonce = self._keyring.sealing, os.urandom(_SALT_SIZE), os.urandom(_NONCE_SIZE)
        sealed = AESGCM(key.derive(salt, _PURPOSE)).encrypt(nonce, secret, None)
        return f"{key.id}:{b64encode(key.check + salt + nonce + sealed).decode('ascii')}"

    def open(self, sealed: str, what: str) -> bytes:
        """The secret again. Raises KeyMissing, which names ``what``, if its key is not at hand."""
        key_id, _, encoded = sealed.partition(":")
        raw = b64decode(encoded)
        check, raw = raw[:CHECK_SIZE], raw[CHECK_SIZE:]
        salt, nonce, sealed_bytes = raw[:_SALT_SIZE], raw[_SALT_SIZE:][:_NONCE_SIZE], raw[_SALT_SIZE + _NONCE_SIZE :]
        try:
            key = self._keyring.find(key_id, check, what)
            return AESGCM(key.derive(salt, _PURPOSE)).decrypt(nonce, sealed_bytes, None)
        except KeyMissing as error:
            raise SecretKeyMissing(error.message) from error
        except InvalidTag:
            raise SecretKeyMissing(f"{what} can't be read with the key {key_id}: it is damaged") from None

    def mark(self, data: bytes) -> str:
        """Return a digest, of at most 63 characters, that only a holder of the key can compare with a guess."""
        return self._mark(self._keyring.sealing, data)

    def is_marked(self, mark: str, data: bytes) -> bool:
        """Return whether this is the mark of the data. One by a key that is not at hand can't be told, and counts."""
        key_id, colon, _ = mark.partition(":")
        if not colon:  # by a program before marks had keys
            return mark == blake2b(data, digest_size=16).hexdigest()
        keys = [key for key in self._keyring.keys if key.id == key_id]
        return not keys or compare_digest(mark, self._mark(keys[0], data))

    def _mark(self, key: Key, data: bytes) -> str:
        digest = blake2b(data, key=key.derive(b"", _MARK_PURPOSE), digest_size=_MARK_SIZE)
        return f"{key.id}:{digest.hexdigest()}"


class SecretKeyMissing(KeyMissing):
    """The key that an action's secrets were sealed with is not at hand."""

    hint = (
        "Start again with the URL and its credentials. Processes that share a database share the keys in "
        f"{SECRET_KEYS}; one process keeps its key in secrets.key of its data folder."
    )


def open_secrets(file: Path, env: str | None) -> Secrets:
    """Secrets by the keys in the environment, or by the one in a file, which is made if there is none.

    Raises BadRequest for keys that can't be read, Unavailable where the file can't be made.
    """
    if env is not None:
        return Secrets(parse_keyring(env, SECRET_KEYS))
    try:
        if not file.exists():
            _make(file)
    except OSError as error:
        raise Unavailable(f"The key {file} can't be made: {shown(error.strerror)}.") from error
    return Secrets(load_keyring(None, file))


def _make(file: Path) -> None:
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        opened.write(new_key_line() + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    with suppress(FileExistsError):  # another process may have made it meanwhile: the first one counts
        os.link(unfinished, file)
    unfinished.unlink()
    sync_folder(file.parent)
