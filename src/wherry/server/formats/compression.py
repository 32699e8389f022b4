"""Compressed files, told by their first bytes and read as one stream in bounded memory."""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from typing import TYPE_CHECKING, Protocol

from wherry.errors import FormatError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.formats.stream import ByteStream

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PIECE = 256 << 10

# What a stream may ask of its decompressor: xz -9 asks for 65 MiB, which is also where zstd --ultra begins.
_MOST_MEMORY = 80 << 20
_LARGEST_WINDOW_LOG = 26


def compression_of(head: bytes) -> str | None:
    """The kind of compression that a file's first bytes tell, or None."""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


class _Decompressor(Protocol):
    """What the standard library's decompressors have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the manners of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = not self._inner.unconsumed_tail and len(out) < max_length
        return out


_MAKERS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _Gzip,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(memlimit=_MOST_MEMORY),
    "zstd": lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW_LOG}),
}


class Decompressed:
    """The plain bytes of a compressed stream: all its members or frames, one after another."""

    def __init__(self, source: ByteStream, kind: str) -> None:
        self._source = source
        self._kind = kind
        self._make = _MAKERS[kind]
        self._inner = self._make()
        self._buffer = bytearray(_PIECE)
        self._rest = b""
        self._began = False

    def read_into(self, into: memoryview) -> int:
        """Read on; 0 at the end. Raises FormatError for a stream that is damaged, cut short or too costly."""
        try:
            while (out := self._step(len(into))) is not None:
                if out:
                    into[: len(out)] = out
                    return len(out)
        except (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError) as error:
            raise FormatError(
                f"We had a problem decompressing your file. It looks like {self._kind}, but it does not decompress: "
                f"{error}."
            ) from error
        return 0

    def _step(self, most: int) -> bytes | None:
        """Some plain bytes, perhaps none yet; None at the end."""
        if self._inner.eof:
            self._rest = self._inner.unused_data.lstrip(b"\0")  # what tools pad with between members
            self._inner, self._began = self._make(), False
        data = b""
        if self._inner.needs_input:
            data = self._rest or self._more()
            self._rest = b""
            if not data:
                if self._began:
                    raise EOFError("it ends too early")
                return None
        self._began = True
        return self._inner.decompress(data, most)

    def _more(self) -> bytes:
        return bytes(self._buffer[: self._source.read_into(memoryview(self._buffer))])
