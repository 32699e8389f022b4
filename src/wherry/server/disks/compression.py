"""Compressed files, told by their first bytes and read as one stream in bounded memory and bounded work."""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from importlib import import_module
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from wherry.errors import FormatError
from wherry.server.disks.work import WorkLimit
from wherry.server.outside import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from wherry.server.disks.stream import ByteStream

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_SKIPPABLE = 0x184D2A50  # to ...5F: frames of zstd, and of lz4, that hold none of the data
_SKIPPABLE_HEADER = Struct("<II")
_ALONE_HEADER = Struct("<BIQ")  # properties, size of the dictionary, plain size (all ones: not known)
_ALONE_LARGEST = 1 << 60
_PIECE = 256 << 10

_LARGEST_WINDOW_LOG = 27  # 128 MiB: what zstd --ultra -22 and --long=27 need, and what zstd -d takes without a word
_MOST_MEMORY = 136 << 20  # a dictionary of 128 MiB for xz and lzma, twice what xz -9 needs, and what surrounds it


def compression_of(head: bytes) -> str | None:
    """The kind of compression that a file's first bytes tell, or None."""
    if kind := next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None):
        return kind
    if _is_skippable(head):
        data = after_skippable_frames(head)
        return "zstd" if not data or data.startswith(b"\x28\xb5\x2f\xfd") else None
    return "lzma" if _is_lzma_alone(head) else None


def after_skippable_frames(head: bytes) -> bytes:
    """What follows the skippable frames at the beginning of a zstd or lz4 file; nothing if they fill the head."""
    at = 0
    while _is_skippable(head[at : at + _SKIPPABLE_HEADER.size]):
        at += _SKIPPABLE_HEADER.size + _SKIPPABLE_HEADER.unpack_from(head, at)[1]
    return head[at:]


def _is_skippable(head: bytes) -> bool:
    return len(head) >= _SKIPPABLE_HEADER.size and _SKIPPABLE_HEADER.unpack_from(head)[0] & ~0xF == _SKIPPABLE


def _is_lzma_alone(head: bytes) -> bool:
    """Whether a file begins with a header of LZMA alone, which has no magic: each field is checked, as xz does."""
    if len(head) <= _ALONE_HEADER.size:
        return False
    properties, dictionary, plain_size = _ALONE_HEADER.unpack_from(head)
    top = 1 << max(dictionary.bit_length() - 1, 0)
    is_usual_dictionary = dictionary >= 1 << 12 and dictionary in {top, top | top >> 1}
    is_possible_size = plain_size == (1 << 64) - 1 or 0 < plain_size < _ALONE_LARGEST
    usual = 0x5D  # lc=3, lp=0, pb=2, which all tools write; the range coder's first byte is always 0
    return properties == usual and is_usual_dictionary and is_possible_size and head[_ALONE_HEADER.size] == 0


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


def _zstd() -> ModuleType:
    """The binding, which only the service needs: the client reads disks of other formats without it."""
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def _make_zstd() -> _Decompressor:
    zstd = _zstd()
    options = {zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW_LOG}
    made: _Decompressor = zstd.ZstdDecompressor(options=options)
    return made


_MAKERS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _Gzip,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MOST_MEMORY),
    "zstd": _make_zstd,
}


SUFFIXES = {"": "", "zstd": ".zst", "gzip": ".gz"}
"""What an export may be compressed by, and how the names of such files end."""


def compressor(kind: str) -> Callable[[memoryview, bool], bytes]:
    """A function that compresses a stream piece by piece: it takes the next bytes, and whether they are the last."""
    inner = _zstd().ZstdCompressor(1) if kind == "zstd" else zlib.compressobj(1, wbits=31)

    def compress(data: memoryview, is_last: bool) -> bytes:  # noqa: FBT001  called by position, in a thread
        return inner.compress(data) + (inner.flush() if is_last else b"")

    return compress


class Decompressed:
    """The plain bytes of a compressed stream: all its members or frames, one after another."""

    def __init__(self, source: ByteStream, kind: str) -> None:
        self._source = source
        self._kind = kind
        self._make = _MAKERS[kind]
        self._inner = self._make()
        self._failures = (zlib.error, lzma.LZMAError, OSError, *([_zstd().ZstdError] if kind == "zstd" else []))
        self._work = WorkLimit(f"The {kind} file")
        self._buffer = bytearray(_PIECE)
        self._rest = b""
        self._began = False
        self._read = self._plain = self._plain_of_member = 0

    def read_into(self, into: memoryview) -> int:
        """Read on; 0 at the end. Raises FormatError for a stream that is damaged, cut short or too costly."""
        try:
            while (out := self._step(len(into))) is not None:
                if out:
                    into[: len(out)] = out
                    return len(out)
        except self._failures as error:
            raise self._problem(f"does not decompress: {self._reason(error)}") from error
        return 0

    def _step(self, most: int) -> bytes | None:
        """Some plain bytes, perhaps none yet; None at the end."""
        if self._inner.eof:
            self._work.spend_rest(self._plain_of_member)
            self._rest = self._inner.unused_data
            self._inner, self._began, self._plain_of_member = self._make(), False, 0
        data = b""
        if self._inner.needs_input:
            data = self._rest or self._more()
            self._rest = b""
            while data and not self._began and not (data := data.lstrip(b"\0")):  # what tools pad with between members
                data = self._more()
            if not data:
                if self._began:
                    raise self._problem(f"is cut short: {self._read} bytes came, which gave {self._plain} bytes")
                return None
        self._began = True
        out = self._inner.decompress(data, most)
        self._plain += len(out)
        self._plain_of_member += len(out)
        self._work.spend(len(out))
        return out

    def _more(self) -> bytes:
        data = bytes(self._buffer[: self._source.read_into(memoryview(self._buffer))])
        self._read += len(data)
        self._work.allow_for(len(data))
        return data

    def _reason(self, error: Exception) -> str:
        text = str(error)
        if "too much memory" in text or "Memory usage limit" in text:
            return (
                f"it needs more than {1 << _LARGEST_WINDOW_LOG >> 20} MiB of memory; compress it with a smaller window "
                "(zstd --long=27, xz -9)"
            )
        return shown(text).rstrip(".")

    def _problem(self, what: str) -> FormatError:
        return FormatError(f"We had a problem decompressing your file. It looks like {self._kind}, but it {what}.")
