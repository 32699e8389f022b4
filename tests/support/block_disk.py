"""A disk as an uploader by blocks sees it: names, records, and a list."""

from __future__ import annotations

from wherry.fingerprint import ZEROS, block_digest
from wherry.records import record_head
from wherry.server.storage.block import encode

MIB = 1 << 20


class BlockDisk:
    """The blocks of a raw disk; ``names`` are those that are not all zeros, in order."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.blocks: dict[str, bytes] = {}
        self.listed = b""
        for start in range(0, len(data), MIB):
            block = data[start : start + MIB]
            if block == ZEROS[: len(block)]:
                self.listed += bytes(32)
                continue
            self.blocks[block_digest(block).hex()] = block
            self.listed += block_digest(block)

    @property
    def names(self) -> list[str]:
        """The names of its blocks, each once."""
        return list(self.blocks)

    def record(self, name: str) -> bytes:
        """A block as it is sent."""
        entry, stored = encode(bytes.fromhex(name), memoryview(self.blocks[name]))
        return record_head(entry) + stored
