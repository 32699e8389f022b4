"""Encryption at rest: a backend that stores every object sealed. Format version 1, little endian.

    segments      the object's bytes, each 64 KiB of them (the last: what is left) by AES-256-GCM:
                  ciphertext · tag (16)
    footer        0  "WSEA"
                  4  format version (4)
                  8  the object's plain size (8)
                 16  id of the key, then zeros (32)
                 48  what tells that key from another one of this id (16)
                 64  salt (32)
                 96  tag (16), by AES-256-GCM of nothing; its associated data: all before it, then the object's name
                112  BLAKE3 digest of all before it in the footer (32)

An object is encrypted with a key of its own: HKDF-SHA256 of the region's key with a random salt of 32 bytes. So a nonce
is just a segment's number (8 bytes, big endian, after 4 zeros; all ones for the footer), none is ever used twice, and
there is no limit on how many objects one key may seal.

What is noticed: a changed, exchanged or moved segment by its own tag, for the object's key and the number go into it; a
cut or longer object by the size in the footer, and an object under another one's name by the name, both of which the
footer's tag covers. The digest tells a damaged footer from a key that is not at hand; it proves nothing else.

It is a footer and not a header because a name is known only when an object is published, and nothing can be written in
front of what was written. Sealed objects lie under their key and ``.sealed``, and the sizes of version 1 are fixed: so
a listing tells which objects are sealed, and how many bytes each has, without opening any.

Objects without ``.sealed`` were written before encryption was switched on, and are read as they are. An attacker who
can write to the storage can put one there, and gains nothing: names are digests of content, checked above, so only
bytes that the attacker knows can be put, and only where they belong.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wherry.errors import BlockCorrupt, BlockMissing
from wherry.server.storage.backends import check_same_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.storage.backends import Backend, Upload
    from wherry.server.storage.keyring import Key, Keyring

VERSION = 1
SUFFIX = ".sealed"
SEGMENT = 64 << 10
"""Plain bytes of a segment. Larger ones are hardly faster, and every read opens whole ones."""

_TAG = 16
_SALT = 32
_SEALED_SEGMENT = SEGMENT + _TAG
_HEAD = Struct("<4sIQ32s16s32s")
_CHECKSUM = 32
_FOOTER = _HEAD.size + _TAG + _CHECKSUM
_NONCE = Struct(">4xQ")
_FOOTER_NONCE = _NONCE.pack((1 << 64) - 1)
_PURPOSE = b"wherry sealed object, version 1"
_READ_SEGMENTS = 65  # read in one go: what copies ask for at most (4 MiB) wherever it begins
_WRITE_SEGMENTS = 16  # written in one go
_KNOWN_OBJECTS = 1024


class _Kept(threading.local):
    """What a thread reads sealed bytes into. Kept, for fresh memory costs more than what is read into it."""

    def __init__(self) -> None:
        self.segment = memoryview(bytearray(SEGMENT))
        self._span = memoryview(bytearray())

    def span(self, length: int) -> memoryview:
        """Room for so many bytes, until the next call."""
        if len(self._span) < length:
            self._span = memoryview(bytearray(length))
        return self._span[:length]


_kept = _Kept()


class Sealed:
    """Every object that is published here is stored sealed; who calls sees plain bytes and plain sizes.

    Footers of objects that were read lately are kept, so that a read asks the storage once. Every read of an object's
    last segment compares the footer again: a reader of a whole object has checked all stored bytes.
    """

    def __init__(self, backend: Backend, keyring: Keyring, random: Callable[[int], bytes] = os.urandom) -> None:
        self._inner = backend
        self.keyring = keyring
        self._random = random
        self._known = _Known()

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer with an object's bytes from an offset on. Raises KeyMissing too."""
        if (known := self._known.get(key)) is not None:
            try:
                known.fill(offset, into)
            except (BlockCorrupt, BlockMissing):
                self._known.drop(key)  # another process may have removed it and published it anew: look again
            else:
                return
        found = self._look(key)
        found.fill(offset, into)
        self._known.put(key, found)

    def size(self, key: str) -> int | None:
        """An object's plain size in bytes, or None. That of a cut object is less than it was."""
        if (stored := self._inner.size(key + SUFFIX)) is not None:
            return _plain_size(stored)
        return self._inner.size(key)

    @contextmanager
    def create(self) -> Iterator[SealedUpload]:
        """Begin an object; leaving the context without publishing discards it."""
        with self._inner.create() as upload:
            yield SealedUpload(self, upload, self.keyring.sealing, self._random(_SALT))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every published object whose key begins so, with its plain size.

        Twice, if it was published both before and after encryption was switched on.
        """
        for stored_key, stored in self._inner.list(prefix):
            key = stored_key.removesuffix(SUFFIX)
            if key.startswith(prefix):
                yield key, stored if key == stored_key else _plain_size(stored)

    def delete(self, key: str) -> None:
        """Remove an object, sealed or not, durably."""
        self._inner.delete(key + SUFFIX)
        self._inner.delete(key)
        self._known.drop(key)

    def sweep_unfinished(self) -> None:
        """Remove what uploads of dead processes left behind."""
        self._inner.sweep_unfinished()

    def sealed_by(self, key: str) -> str | None:
        """The id of the key that an object is sealed with, or None if it was written before encryption was on.

        Needs no key. Raises BlockMissing if there is no such object, BlockCorrupt if its footer is damaged.
        """
        if (stored := self._inner.size(key + SUFFIX)) is not None:
            return _read_footer(self._inner, key, stored).key_id
        if self._inner.size(key) is None:
            raise BlockMissing(f"{key} is not in its store")
        return None

    def _look(self, key: str) -> _Opened | _Plain:
        if (stored := self._inner.size(key + SUFFIX)) is None:
            return _Plain(self._inner, key)
        footer = _read_footer(self._inner, key, stored)
        cipher = _cipher(self.keyring.find(footer.key_id, footer.key_check, key), footer.salt)
        try:
            cipher.decrypt(_FOOTER_NONCE, footer.tag, footer.head + key.encode())
        except InvalidTag:
            raise BlockCorrupt(f"{key}: the footer's tag does not fit the object's name, size and salt") from None
        return _Opened(self._inner, key, footer, cipher)


class SealedUpload:
    """Seals what is written, segment by segment."""

    def __init__(self, sealed: Sealed, inner: Upload, key: Key, salt: bytes) -> None:
        self._sealed = sealed
        self._inner = inner
        self._key = key
        self._salt = salt
        self._cipher = _cipher(key, salt)
        self._size = 0
        self._segments = 0
        self._begun = memoryview(bytearray(SEGMENT))  # plain bytes that do not make a segment yet
        self._begun_length = 0
        self._out = memoryview(bytearray(_WRITE_SEGMENTS * _SEALED_SEGMENT))
        self._out_length = 0
        self._to_sync = False

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        for part in parts:
            self._append(memoryview(part).cast("B"))

    def sync(self) -> None:
        """Ask for what was written to survive power loss, which it does when the object gets its name.

        Not before: the footer can't be sealed without the name, and one sync of all of it is cheaper than two.
        """
        self._to_sync = True

    def publish(self, key: str) -> None:
        """End the object, make it durable if that was asked for, and give it its name."""
        if (there := self._sealed.size(key)) is not None:
            check_same_size(key, there, self._size)
        if self._begun_length:
            self._seal(self._begun[: self._begun_length])
        head = _HEAD.pack(b"WSEA", VERSION, self._size, self._key.id.encode(), self._key.check, self._salt)
        tagged = head + self._cipher.encrypt(_FOOTER_NONCE, b"", head + key.encode())
        self._inner.write(self._out[: self._out_length], tagged, blake3(tagged).digest())
        if self._to_sync:
            self._inner.sync()
        self._inner.publish(key + SUFFIX)

    def _append(self, data: memoryview) -> None:
        self._size += len(data)
        if self._begun_length:
            data = self._begin(data)
            if self._begun_length < SEGMENT:
                return
            self._seal(self._begun)
            self._begun_length = 0
        while len(data) >= SEGMENT:
            self._seal(data[:SEGMENT])
            data = data[SEGMENT:]
        self._begin(data)

    def _begin(self, data: memoryview) -> memoryview:
        """Keep bytes for the segment that was begun, as many as it takes, and return the others."""
        count = min(len(data), SEGMENT - self._begun_length)
        self._begun[self._begun_length : self._begun_length + count] = data[:count]
        self._begun_length += count
        return data[count:]

    def _seal(self, plain: memoryview) -> None:
        if self._out_length + len(plain) + _TAG > len(self._out):
            self._inner.write(self._out[: self._out_length])
            self._out_length = 0
        end = self._out_length + len(plain) + _TAG
        self._cipher.encrypt_into(_NONCE.pack(self._segments), plain, None, self._out[self._out_length : end])
        self._out_length = end
        self._segments += 1


@dataclass(frozen=True, slots=True)
class _Footer:
    """A footer whose digest was checked, and its size; its tag was not."""

    raw: bytes
    plain_size: int
    key_id: str
    key_check: bytes
    salt: bytes

    @property
    def head(self) -> bytes:
        return self.raw[: _HEAD.size]

    @property
    def tag(self) -> bytes:
        return self.raw[_HEAD.size : -_CHECKSUM]


class _Plain:
    """An object that was written before encryption was switched on."""

    def __init__(self, inner: Backend, key: str) -> None:
        self._inner = inner
        self._key = key

    def fill(self, offset: int, into: memoryview) -> None:
        """Fill a buffer with the object's bytes from an offset on."""
        self._inner.read(self._key, offset, into)


class _Opened:
    """A sealed object whose footer was checked."""

    def __init__(self, inner: Backend, key: str, footer: _Footer, cipher: AESGCM) -> None:
        self._inner = inner
        self._key = key
        self._footer = footer.raw
        self._size = footer.plain_size
        self._body = _stored_size(footer.plain_size) - _FOOTER
        self._cipher = cipher

    def fill(self, offset: int, into: memoryview) -> None:
        """Fill a buffer with the object's plain bytes from an offset on."""
        end = offset + len(into)
        if end > self._size:
            raise BlockCorrupt(f"{self._key} ends {min(end - self._size, len(into))} bytes too early")
        after = -(-end // SEGMENT) if into else 0
        for first in range(offset // SEGMENT, after, _READ_SEGMENTS):
            self._fill_from(first, min(first + _READ_SEGMENTS, after), offset, into)

    def _fill_from(self, first: int, after: int, offset: int, into: memoryview) -> None:
        """Read some neighbouring segments in one go, and open them."""
        start, end = first * _SEALED_SEGMENT, min(after * _SEALED_SEGMENT, self._body)
        is_last = end == self._body
        stored = _kept.span(end - start + is_last * _FOOTER)
        self._inner.read(self._key + SUFFIX, start, stored)
        if is_last and stored[end - start :] != self._footer:
            raise BlockCorrupt(f"{self._key}: the footer is not the one that it had")
        for number in range(first, after):
            at = number * _SEALED_SEGMENT - start
            self._open(number, stored[at : min(at + _SEALED_SEGMENT, end - start)], number * SEGMENT - offset, into)

    def _open(self, number: int, stored: memoryview, at: int, into: memoryview) -> None:
        """Open a segment whose first byte belongs at this place of a buffer, which may have room for a part of it."""
        length = len(stored) - _TAG
        is_whole = at >= 0 and at + length <= len(into)
        plain = into[at : at + length] if is_whole else _kept.segment[:length]
        try:
            self._cipher.decrypt_into(_NONCE.pack(number), stored, None, plain)
        except InvalidTag:
            raise BlockCorrupt(f"{self._key}: segment {number} does not fit its tag") from None
        if not is_whole:
            first, after = max(0, -at), min(length, len(into) - at)
            into[at + first : at + after] = plain[first:after]


class _Known:
    """The objects that were read lately."""

    def __init__(self) -> None:
        self._objects: OrderedDict[str, _Opened | _Plain] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> _Opened | _Plain | None:
        """The object under a key, if it is known."""
        with self._lock:
            if (found := self._objects.get(key)) is not None:
                self._objects.move_to_end(key)
            return found

    def put(self, key: str, found: _Opened | _Plain) -> None:
        """Keep an object, in place of the one that was not read for the longest time."""
        with self._lock:
            self._objects[key] = found
            if len(self._objects) > _KNOWN_OBJECTS:
                self._objects.popitem(last=False)

    def drop(self, key: str) -> None:
        """Forget an object."""
        with self._lock:
            self._objects.pop(key, None)


def _cipher(key: Key, salt: bytes) -> AESGCM:
    return AESGCM(key.derive(salt, _PURPOSE))


def _stored_size(plain: int) -> int:
    return plain + -(-plain // SEGMENT) * _TAG + _FOOTER


def _plain_size(stored: int) -> int:
    """The plain size of an object of this stored size; of one that was cut, less than it had."""
    full, rest = divmod(max(0, stored - _FOOTER), _SEALED_SEGMENT)
    return full * SEGMENT + max(0, rest - _TAG)


def _read_footer(inner: Backend, key: str, stored: int) -> _Footer:
    """Read and check a footer, but for its tag. Raises BlockCorrupt."""
    if stored < _FOOTER:
        raise BlockCorrupt(f"{key} is sealed and has {stored} bytes, fewer than a footer")
    data = bytearray(_FOOTER)
    inner.read(key + SUFFIX, stored - _FOOTER, memoryview(data))
    raw = bytes(data)
    if blake3(raw[:-_CHECKSUM]).digest() != raw[-_CHECKSUM:]:
        raise BlockCorrupt(f"{key}: the footer of its seal does not fit its digest")
    magic, version, size, key_id, check, salt = _HEAD.unpack_from(raw)
    if magic != b"WSEA" or version != VERSION:
        raise BlockCorrupt(f"{key} is sealed in version {version}; this program reads version {VERSION}")
    if _stored_size(size) != stored:
        raise BlockCorrupt(f"{key} has {stored} bytes; sealed, it had {_stored_size(size)}")
    return _Footer(raw, size, key_id.rstrip(b"\0").decode("ascii", "replace"), check, salt)
