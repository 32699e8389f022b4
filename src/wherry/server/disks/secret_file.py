"""A temporary file that this process alone can read: it is encrypted with a key that is only in memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

if TYPE_CHECKING:
    from typing import BinaryIO

_AES_BLOCK = 16


class SecretFile:
    """Bytes are appended to ``file``, which is empty at first, and read anywhere.

    The key is the file's own, so the counter of AES-CTR may begin at 0: no part of the key stream is used twice. There
    is no tag: what is read is checked as a disk image anyway, and a program that could change an open file of this
    process could change its memory.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._key = AES(os.urandom(32))
        self._encryptor = self._cipher(0).encryptor()

    def append(self, data: memoryview) -> None:
        """Append bytes. Raises OSError."""
        self._file.write(self._encryptor.update(data))
        self._file.flush()

    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill a buffer with the bytes from an offset on; fewer only come where the file ends."""
        done = 0
        while done < len(into) and (count := os.preadv(self._file.fileno(), [into[done:]], offset + done)):
            done += count
        decryptor = self._cipher(offset // _AES_BLOCK).decryptor()
        decryptor.update(bytes(offset % _AES_BLOCK))
        into[:done] = decryptor.update(into[:done])
        return done

    def _cipher(self, counter: int) -> Cipher[CTR]:
        return Cipher(self._key, CTR(counter.to_bytes(_AES_BLOCK)))
