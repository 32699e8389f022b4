"""The bytes of a region: blocks in packs, and manifests. The door is ``open_store(url) -> Store``."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from wherry.errors import StorageError
from wherry.server.storage.backends.local import LocalBackend
from wherry.server.storage.backends.memory import MemoryBackend
from wherry.server.storage.block import Entry
from wherry.server.storage.manifest import Manifest, sample
from wherry.server.storage.store import CopyPlan, DiskBlocks, Holder, Known, Located, Store, Watcher, plan_copy

__all__ = [
    "CopyPlan", "DiskBlocks", "Entry", "Holder", "Known", "Located", "Manifest", "Store", "Watcher", "open_store",
    "plan_copy", "sample",
]  # fmt: skip

_memories: dict[str, MemoryBackend] = {}


def open_store(url: str) -> Store:
    """Open a region's store: ``file:///folder`` or ``memory://name`` (which lives as long as the process).

    Raises StorageError for a URL of any other kind.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Store(LocalBackend(Path(unquote(parts.path))))
    if parts.scheme == "memory":
        return Store(_memories.setdefault(parts.netloc, MemoryBackend()))
    raise StorageError(f"A store's URL begins with file:// or memory://; found {url!r}.")
