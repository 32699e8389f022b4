"""Uploads by blocks: the caller asks which blocks of a disk are missing, sends those alone, and says what the disk is.

What comes goes into packs of the region's store at once, each block checked before it is kept. The upload holds its
packs by rows, and so it does the manifests of the images that have what the caller was told it need not send; the
import takes both over. So at any moment an upload may be given up, or go on, and what it has stays as long as it is
there.

Blocks are looked for in the account's own images and the public ones alone, and by their manifests: a pack may
have blocks of other accounts as well.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from wherry.errors import (
    BlockCorrupt,
    BlockMissing,
    ImageTooLarge,
    ManifestCorrupt,
    ManifestMissing,
    NotFound,
    Unprocessable,
)
from wherry.fingerprint import BLOCK_SIZE
from wherry.records import RECORD_SIZE, read_head
from wherry.server.catalog import GONE
from wherry.server.storage import DIGEST, FEW_BLOCKS, PACK_SIZE, Manifest, PackWriter, Places, is_sampled, sample_number
from wherry.server.storage.block import admit
from wherry.server.telemetry.failpoints import failpoint
from wherry.server.telemetry.metrics import Moves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wherry.records import Entry
    from wherry.server.catalog import Catalog, Reader
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ObjectRecord, UploadRecord
    from wherry.server.storage import Located, Store

log = logging.getLogger("wherry.uploads")

SECTOR = 512
_LIKEST = 8  # how many other images are looked into, each time, for blocks that they share ...
_MOST_LIKE = 16  # ... and how many altogether
_TOUCHED_EVERY = timedelta(minutes=10)  # an upload that is not touched for long is given up
_REMEMBERED = 16  # for how many uploads this process remembers what they have
_LARGEST_NUMBER = (1 << 31) - 1
_HOLE = bytes(DIGEST)


class BlockUploads:
    """Takes disks in block by block. Any process may, and several at the same time."""

    def __init__(self, catalog: Catalog, regions: Regions, largest_bytes: int) -> None:
        self._catalog = catalog
        self._regions = regions
        self._largest_bytes = largest_bytes
        self._largest_stored = largest_bytes + (largest_bytes >> 4) + PACK_SIZE  # with what surrounds blocks in packs
        self._known: OrderedDict[str, _KnownBlocks] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, account_id: int, upload_id: str) -> UploadRecord:
        """The account's upload by blocks, which is open, and touched by that. Raises NotFound or Unprocessable."""
        with self._catalog.read() as reader:
            upload = block_upload(reader, account_id, upload_id)
        if self._catalog.now() - upload.touched_at >= _TOUCHED_EVERY:
            with self._catalog.begin() as tx:
                tx.update_upload(block_upload(tx, account_id, upload_id).id)
        return upload

    def missing(self, account_id: int, upload_id: str, names: Sequence[str]) -> list[int]:
        """Which of these blocks must be sent, by their places in the list; the upload holds all others from now on."""
        upload = self.find(account_id, upload_id)
        digests = [_digest(name) for name in names]
        self._hold_like(upload, digests)
        known = self._refreshed(upload)
        return [place for place, digest in enumerate(digests) if known.find(digest) is None]

    def receiving(self, account_id: int, upload_id: str, number: int) -> Batch:
        """Take in a batch of blocks; to be entered as a context. What came whole counts when that is left."""
        upload = self.find(account_id, upload_id)
        if number > _LARGEST_NUMBER:
            raise Unprocessable(f"The batch has the number {number}; it may be 0 to {_LARGEST_NUMBER}")
        self._regions.check_room(upload.request["region"])
        store = self._regions.store(upload.request["region"])
        return Batch(store, upload, number, _UploadHolder(self._catalog, upload, self._largest_stored))

    @property
    def largest_names(self) -> int:
        """How many bytes the names of the largest disk's blocks have."""
        return -(-self._largest_bytes // BLOCK_SIZE) * DIGEST

    def describe(self, account_id: int, upload_id: str, names: bytes, size: int, *, is_raw: bool = False) -> None:
        """Take in what the disk is: the names of its blocks, in order, 32 zero bytes for one of zeros; and its bytes.

        ``is_raw`` says that it is raw whatever it looks like. Raises Unprocessable if a block is missing, or the names
        are not those of a disk of this size, and ImageTooLarge.
        """
        if size % SECTOR or not size:
            raise Unprocessable(f"size is {size}; a disk has whole sectors of {SECTOR} bytes, and at least one")
        if size > self._largest_bytes:
            raise ImageTooLarge(f"The disk image is larger than {self._largest_bytes} bytes.")
        count = -(-size // BLOCK_SIZE)
        if len(names) != count * DIGEST:
            raise Unprocessable(
                f"{len(names)} bytes of names came; a disk of {size} bytes has {count} of {DIGEST} bytes"
            )
        upload = self.find(account_id, upload_id)
        manifest = _manifest(self._refreshed(upload), names, size, upload.request["writer"])
        holder = _UploadHolder(self._catalog, upload, self._largest_stored)
        store = self._regions.store(upload.request["region"])
        holder.see_kept(store, store.write_manifest(manifest, holder))
        if is_raw:
            with self._catalog.begin() as tx:
                request = block_upload(tx, account_id, upload_id).request | {"format": "raw"}
                tx.update_upload(upload_id, request=json.dumps(request))

    def manifest(self, upload: UploadRecord) -> tuple[str, Manifest]:
        """What was said last of what the disk is, and its key. Raises Unprocessable if nothing was."""
        with self._catalog.read() as reader:
            own = _own(reader.held_by_upload(upload.id, "manifest"), upload)
        for said in reversed(own):  # a process that died may have left a row whose object never came
            try:
                return said.key, self._regions.store(upload.request["region"]).read_manifest(said.key)
            except ManifestMissing:
                continue
        raise Unprocessable("Upload has no list of its blocks yet: PUT /v2/uploads/ID/disk gives it")

    def _hold_like(self, upload: UploadRecord, digests: Sequence[bytes]) -> None:
        """Hold the manifests that share most of the blocks that stand for these in the sparse index."""
        samples = [sample_number(each) for each in digests[:FEW_BLOCKS]]
        samples += [sample_number(each) for each in digests[FEW_BLOCKS:] if is_sampled(each[0])]
        with self._catalog.read() as reader:
            manifests = reader.held_by_upload(upload.id, "manifest")
            if len(manifests) - len(_own(manifests, upload)) >= _MOST_LIKE:
                return
            held = {each.id for each in manifests}
            likest = reader.similar(upload.request["region"], samples, upload.account_id, _LIKEST)
        if new := [each.id for each in likest if each.id not in held]:
            with self._catalog.begin() as tx:
                block_upload(tx, upload.account_id, upload.id)
                tx.hold_for_upload(upload.id, new)

    def _refreshed(self, upload: UploadRecord) -> _KnownBlocks:
        """What an upload has by now, with what other processes took in."""
        with self._lock:
            known = self._known.pop(upload.id, None) or _KnownBlocks(self._regions.store(upload.request["region"]))
            self._known[upload.id] = known
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        known.refresh(self._catalog, upload)
        return known


class _KnownBlocks:
    """The blocks that an upload has: in its own packs, and in the images whose manifests it holds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loaded: set[str] = set()
        self._damaged: set[str] = set()
        self._own = Manifest(0, 0)  # as columns: a disk may have millions of blocks
        self._tables = [(self._own, Places(self._own.digests))]
        self._lock = threading.Lock()

    def find(self, digest: bytes) -> Located | None:
        """Where a block lies, or None; never in an object that is known to be damaged."""
        for manifest, places in self._tables:
            place = places.find(digest)
            if place is not None and manifest.pack(place) not in self._damaged:
                return manifest.pack(place), manifest.entry(place)
        return None

    def refresh(self, catalog: Catalog, upload: UploadRecord) -> None:
        """Read what came since the last time. What can't be read has no blocks: they are sent again."""
        with self._lock:
            with catalog.read() as reader:
                packs = reader.held_by_upload(upload.id, "pack")
                manifests = reader.held_by_upload(upload.id, "manifest")
                self._damaged = reader.damaged_objects(upload.request["region"])
            own = {each.id for each in _own(manifests, upload)}
            for pack in packs:
                self._load(pack.key, self._add_pack)
            for manifest in manifests:
                if manifest.id not in own:
                    self._load(manifest.key, self._add_manifest)

    def _load(self, key: str, add: Callable[[str], None]) -> None:
        if key in self._loaded or key in self._damaged:
            return
        try:
            add(key)
        except (BlockCorrupt, BlockMissing, ManifestCorrupt, ManifestMissing) as error:
            # A pack that is on its way, or was when its process died. It is looked at again the next time.
            log.info("upload.not_read key=%s %s", key, error.message)
        else:
            self._loaded.add(key)

    def _add_pack(self, key: str) -> None:
        index = self._store.read_index(key)
        self._own.packs.append(key)
        for entry in index.entries:
            self._own.add(0, entry, len(self._own.packs) - 1)
            self._tables[0][1].add(len(self._own) - 1)

    def _add_manifest(self, key: str) -> None:
        manifest = self._store.read_manifest(key)
        places = Places(manifest.digests)
        for place in range(len(manifest)):
            places.add(place)
        self._tables.append((manifest, places))


class Batch:
    """Blocks of an upload that are coming in: records one after another, together one pack."""

    def __init__(self, store: Store, upload: UploadRecord, number: int, holder: _UploadHolder) -> None:
        self._store = store
        self._upload = upload
        self._number = number
        self._holder = holder
        self._moves = Moves(upload.request["region"], "imported")
        self._rest = bytearray()
        self._blocks = 0
        self._is_broken = False
        self._resources = ExitStack()
        self._pack: PackWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._resources:
            if self._blocks and not self._is_broken:
                self._publish()

    def write(self, data: bytes) -> None:
        """Take bytes in. Raises BlockCorrupt for a record that is not what it says; what came before it counts."""
        self._rest += data
        at = 0
        with memoryview(self._rest) as rest:
            while len(rest) - at >= RECORD_SIZE:
                entry = read_head(rest[at : at + RECORD_SIZE])
                end = at + RECORD_SIZE + entry.stored_length
                if end > len(rest):
                    break
                self._append(entry, rest[at + RECORD_SIZE : end])
                at = end
        del self._rest[:at]

    def end(self) -> None:
        """Say that all has come. Raises BlockCorrupt if the last record is not whole."""
        if self._rest:
            raise BlockCorrupt(f"The batch ends within a record: {len(self._rest)} bytes of it came.")

    def _append(self, entry: Entry, stored: memoryview) -> None:
        entry, kept = admit(entry, stored, "the batch")
        if self._pack is None:
            upload = self._resources.enter_context(self._store.backend.create())
            self._pack = PackWriter(upload, self._upload.request["writer"], self._number)
        if not self._pack.has_room(entry.stored_length):
            raise Unprocessable("The batch is too large: a batch has at most 4,096 blocks and about 64 MiB")
        try:
            self._pack.append(entry, kept)
        except BaseException:
            self._is_broken = True  # the store did not take all of it, so none of it may count
            raise
        self._blocks += 1
        self._moves.add(sent=1, sent_bytes=entry.stored_length)

    def _publish(self) -> None:
        assert self._pack is not None, "a block was appended"
        key = self._pack.close(lambda key, size: self._holder.pack(self._number, key, size))
        self._holder.see_kept(self._store, key)
        failpoint("blocks.kept")


class _UploadHolder:
    """Writes down that an upload holds what is about to be published for it; a ``storage.Holder``."""

    def __init__(self, catalog: Catalog, upload: UploadRecord, largest_bytes: int) -> None:
        self._catalog = catalog
        self._upload = upload
        self._largest_bytes = largest_bytes

    def pack(self, number: int, key: str, size: int) -> None:
        """A pack is about to get its name."""
        self._add("pack", number, key, size)

    def manifest(self, key: str, size: int) -> None:
        """A manifest is about to get its name."""
        self._add("manifest", 0, key, size)

    def see_kept(self, store: Store, key: str) -> None:
        """Remove what was published for an upload that is gone by now, for no row leads to it. Raises NotFound then.

        A process may sleep between writing down an object and publishing it, while the upload is given up and what
        there is of the object collected.
        """
        with self._catalog.read() as reader:
            is_live = reader.is_live(self._upload.request["region"], key)
        if not is_live:
            store.remove(key)
            raise NotFound(GONE)

    def _add(self, kind: str, number: int, key: str, size: int) -> None:
        request = self._upload.request
        with self._catalog.begin() as tx:
            block_upload(tx, self._upload.account_id, self._upload.id)
            is_new = tx.add_upload_object(
                self._upload.id, request["region"], kind, key, size, writer=request["writer"], number=number
            )
            if is_new and kind == "pack":
                tx.count_block_bytes(self._upload.id, size, self._largest_bytes)


def block_upload(reader: Reader, account_id: int, upload_id: str) -> UploadRecord:
    """The account's upload, which is open and was begun by blocks. Raises NotFound or Unprocessable."""
    upload = reader.upload(upload_id, account_id)
    if upload.status != "open":
        raise Unprocessable("Upload is already finished")
    if "writer" not in upload.request:
        raise Unprocessable("Upload was not begun by blocks; send its bytes")
    return upload


def _own(objects: Sequence[ObjectRecord], upload: UploadRecord) -> list[ObjectRecord]:
    """Those of the objects that were put for an upload."""
    return [each for each in objects if each.action_id == upload.request["writer"]]


def _manifest(known: _KnownBlocks, names: bytes, size: int, writer: int) -> Manifest:
    manifest = Manifest(size, writer)
    packs: dict[str, int] = {}
    missing = 0
    for number in range(len(names) // DIGEST):
        digest = names[number * DIGEST : (number + 1) * DIGEST]
        if digest == _HOLE:
            continue
        if (located := known.find(digest)) is None:
            missing += 1
            continue
        length = min(BLOCK_SIZE, size - number * BLOCK_SIZE)
        if located[1].plain_length != length:
            raise Unprocessable(
                f"Block {number} of the disk has {length} bytes; {digest.hex()[:12]} has {located[1].plain_length}"
            )
        manifest.add(number, located[1], packs.setdefault(located[0], len(packs)))
    if missing:
        raise Unprocessable(f"{missing} of the disk's blocks are missing: ask which they are, and send them")
    manifest.packs = list(packs)
    return manifest


def _digest(name: str) -> bytes:
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        digest = b""
    if len(digest) != DIGEST or len(name) != 2 * DIGEST:
        raise Unprocessable(f"{name[:70]!r} is not the name of a block: 64 hexadecimal digits are wanted")
    return digest
