"""The bytes of a region: blocks in packs, and manifests. The door is ``open_store(url) -> Store``.

It promises that a block is checked whenever it is copied or served, that a manifest names only what was published
before it, and that what was published survives power loss. Callers record elsewhere which objects they need
(``Holder`` is called in time): nothing here knows what is needed, and ``remove`` removes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from wherry.errors import StorageError
from wherry.records import Entry
from wherry.server.storage.backends import Backend, Upload
from wherry.server.storage.backends.local import LocalBackend
from wherry.server.storage.backends.memory import MemoryBackend
from wherry.server.storage.backends.metered import Metered
from wherry.server.storage.backends.object_store import OBJECT_SCHEMES, ObjectStoreBackend, StoreOptions, open_bucket
from wherry.server.storage.backends.paced import Pace, Paced
from wherry.server.storage.backends.sealed import Sealed
from wherry.server.storage.callers import CopyContext, DiskBlocks, Fallback, Holder, Located, Reusable, Watcher
from wherry.server.storage.copy import CopyPlan, plan_copy
from wherry.server.storage.disk_writer import THREADS
from wherry.server.storage.keyring import Keyring, load_keyring, new_key_line
from wherry.server.storage.manifest import FEW_BLOCKS, Manifest, is_sampled, live_places, sample_number
from wherry.server.storage.metered import MeteredWatcher
from wherry.server.storage.pack import PACK_SIZE, PackIndex, PackWriter, pack_size
from wherry.server.storage.places import DIGEST, Places
from wherry.server.storage.scrub import Fault
from wherry.server.storage.store import Store
from wherry.server.storage.stored_disk import StoredDisk

if TYPE_CHECKING:
    from collections.abc import Callable

STORE_ID_KEY = "store.id"
"""The object that tells a store from others; the only one that no row of the catalog stands for."""

__all__ = [
    "DIGEST",
    "FEW_BLOCKS",
    "PACK_SIZE",
    "STORE_ID_KEY",
    "THREADS",
    "Backend",
    "CopyContext",
    "CopyPlan",
    "DiskBlocks",
    "Entry",
    "Fallback",
    "Fault",
    "Holder",
    "Keyring",
    "LocalBackend",
    "Located",
    "Manifest",
    "MemoryBackend",
    "Metered",
    "MeteredWatcher",
    "ObjectStoreBackend",
    "Pace",
    "Paced",
    "PackIndex",
    "PackWriter",
    "Places",
    "Reusable",
    "Sealed",
    "Store",
    "StoreOptions",
    "StoredDisk",
    "Upload",
    "Watcher",
    "is_sampled",
    "live_places",
    "load_keyring",
    "new_key_line",
    "open_backend",
    "open_store",
    "pack_size",
    "plan_copy",
    "sample_number",
]  # fmt: skip

_memories: dict[str, MemoryBackend] = {}


def open_store(url: str, options: StoreOptions | None = None) -> Store:
    """Open a region's store over the backend of a URL; see ``open_backend``."""
    return Store(open_backend(url, options))


def open_backend(
    url: str, options: StoreOptions | None = None, check_room: Callable[[], None] = lambda: None
) -> Backend:
    """Open where the keys of a store lie.

    ``file:///folder`` or ``/folder``; ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``, for
    which alone the options are; ``memory://name``, which lives as long as the process. A folder calls ``check_room``
    before it writes bytes.

    Raises StorageError for a URL of any other kind, StoreRefused for a bucket whose URL or credentials can't be used.
    Nothing is written, and a bucket is not asked anything yet.
    """
    parts = urlsplit(url)
    if url.startswith("/"):
        return LocalBackend(Path(url), check_room)
    if parts.scheme == "file":
        return LocalBackend(Path(unquote(parts.path)), check_room)
    if parts.scheme == "memory":
        return _memories.setdefault(parts.netloc, MemoryBackend())
    if parts.scheme in OBJECT_SCHEMES:
        return open_bucket(url, options or StoreOptions())
    raise StorageError(
        f"A store's URL is s3://, gs://, az://, file://, memory:// or an absolute path; found one of {parts.scheme!r}."
    )
