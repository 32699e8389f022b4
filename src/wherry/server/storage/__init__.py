"""The bytes of a region: blocks in packs, and manifests. The door is ``open_store(url) -> Store``.

It promises that a block is checked whenever it is copied or served, that a manifest names only what was published
before it, and that what was published survives power loss. It asks that whoever needs an object says so elsewhere
(``Holder`` is told in time), for nothing here knows what is needed: ``remove`` removes.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from wherry.errors import StorageError
from wherry.server.storage.backends import Backend, Upload
from wherry.server.storage.backends.local import LocalBackend
from wherry.server.storage.backends.memory import MemoryBackend
from wherry.server.storage.block import Entry
from wherry.server.storage.callers import DiskBlocks, Holder, Known, Located, Rescue, Watcher
from wherry.server.storage.manifest import FEW_BLOCKS, Manifest, is_sampled, live_places, sample_number
from wherry.server.storage.pack import pack_size
from wherry.server.storage.plan import CopyPlan, plan_copy
from wherry.server.storage.scrub import Fault
from wherry.server.storage.store import Store

__all__ = [
    "FEW_BLOCKS",
    "Backend",
    "CopyPlan",
    "DiskBlocks",
    "Entry",
    "Fault",
    "Holder",
    "Known",
    "LocalBackend",
    "Located",
    "Manifest",
    "MemoryBackend",
    "Rescue",
    "Store",
    "Upload",
    "Watcher",
    "is_sampled",
    "live_places",
    "open_store",
    "pack_size",
    "plan_copy",
    "sample_number",
]  # fmt: skip

_memories: dict[str, MemoryBackend] = {}


def open_store(url: str) -> Store:
    """Open a region's store: ``file:///folder``, ``/folder`` or ``memory://name`` (which lives as long as the process).

    Raises StorageError for a URL of any other kind, StoreUnavailable or StoreFull if the folder can't be made.
    """
    parts = urlsplit(url)
    if url.startswith("/"):
        return Store(LocalBackend(Path(url)))
    if parts.scheme == "file":
        return Store(LocalBackend(Path(unquote(parts.path))))
    if parts.scheme == "memory":
        return Store(_memories.setdefault(parts.netloc, MemoryBackend()))
    raise StorageError(f"A store's URL is file://, memory:// or an absolute path; found {url!r}.")
