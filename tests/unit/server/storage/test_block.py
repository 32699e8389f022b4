"""A block is stored, copied and served under its digests."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import BlockCorrupt
from wherry.fingerprint import block_digest
from wherry.records import PLAIN, ZSTD
from wherry.server.storage.block import check_stored, decode, encode

blocks = st.one_of(
    st.binary(min_size=1, max_size=5000),
    st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=9), st.integers(1, 5000)),
)


@given(blocks)
def test_block_survives(data: bytes) -> None:
    """What was encoded decodes to the same bytes, and never takes more room than they do."""
    entry, stored = encode(block_digest(data), memoryview(data))
    assert decode(entry, memoryview(stored), "here") == data
    assert (entry.stored_length, entry.plain_length) == (len(stored), len(data))
    assert entry.stored_length <= entry.plain_length


@pytest.mark.parametrize(("data", "codec"), [(b"a" * 5000, ZSTD), (bytes(range(256)), PLAIN)])
def test_codec_is_the_one_that_helps(data: bytes, codec: int) -> None:
    """What does not shrink is stored plain."""
    assert encode(block_digest(data), memoryview(data))[0].codec == codec


@given(blocks, st.data())
def test_any_flipped_bit_is_found(data: bytes, draw: st.DataObject) -> None:
    """No bit of the stored bytes can change unseen, not even for a copy that does not decompress."""
    entry, stored = encode(block_digest(data), memoryview(data))
    damaged = bytearray(stored)
    damaged[draw.draw(st.integers(0, len(stored) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    with pytest.raises(BlockCorrupt, match="stored bytes hash to"):
        check_stored(entry, memoryview(damaged), "here")


def test_bytes_that_do_not_decompress() -> None:
    """A frame that is none is a corrupt block, though its stored digest is right."""
    entry, stored = encode(block_digest(b"noise"), memoryview(b"noise"))
    with pytest.raises(BlockCorrupt, match="does not decompress"):
        decode(replace(entry, codec=ZSTD), memoryview(stored), "here")


def test_content_of_another_block() -> None:
    """Sound bytes under another block's name are refused, and both digests are said."""
    entry, stored = encode(block_digest(b"one"), memoryview(b"two"))
    found, expected = block_digest(b"two").hex()[:12], block_digest(b"one").hex()[:12]
    with pytest.raises(BlockCorrupt, match=f"block {expected} in here hashes to {found}"):
        decode(entry, memoryview(stored), "here")
