"""Uploads: bytes that are on their way in, and the objects that keep them until they are imported.

The pieces of an upload that count are numbered from 0 on, in the order of their bytes. One that a process is about to
put does not count yet: its number is minus the process's id. It can only come to count while that process is known to
be alive, and ids of processes are never used again; so what a process began that is gone by now is surely left over.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, exists, func, insert, literal, or_, select, update

from wherry.errors import ImageTooLarge, NotFound, Unprocessable
from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import GONE, batches, micros, moment_of, with_ids
from wherry.server.catalog.needs import is_imported
from wherry.server.catalog.objects import ObjectWriter
from wherry.server.catalog.quotas import QuotaReader
from wherry.server.rules.records import PieceRecord, UploadRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Row, Select

_REMOVED = "removed"
"""The status of an upload that is not shown any more, and that only stays until its pieces are gone."""


class UploadReader(QuotaReader):
    """Questions about uploads."""

    def upload(self, upload_id: str, account_id: int) -> UploadRecord:
        """The account's upload with this id. Raises NotFound."""
        found = (t.uploads.c.id == upload_id, t.uploads.c.account_id == account_id, t.uploads.c.status != _REMOVED)
        return _upload(self._one(select(t.uploads).where(*found)))

    def uploads(self) -> list[UploadRecord]:
        """Every upload that is not finished."""
        return [_upload(row) for row in self.connection.execute(select(t.uploads).where(t.uploads.c.status == "open"))]

    def uploads_needed(self, upload_ids: Sequence[str]) -> set[str]:
        """Those of these uploads that are not finished, or whose import has not ended."""
        return {row.id for row in self._rows(_NEEDED, upload_ids)}

    def uploads_untouched(self, before: datetime) -> list[UploadRecord]:
        """The uploads that are not finished and of which nothing has come since a moment."""
        left = (t.uploads.c.status == "open", t.uploads.c.touched_at < micros(before))
        return [_upload(row) for row in self.connection.execute(select(t.uploads).where(*left))]

    def pieces(self, upload_id: str) -> list[PieceRecord]:
        """The pieces of an upload that count, in the order of their bytes."""
        query = _pieces().where(t.pieces.c.upload_id == upload_id, t.pieces.c.number >= 0).order_by(t.pieces.c.number)
        return [PieceRecord(*row) for row in self.connection.execute(query)]

    def pieces_begun(self, process_id: int) -> list[PieceRecord]:
        """The pieces that a process put, or is about to put, and that do not count."""
        query = _pieces().where(t.pieces.c.number == -process_id)
        return [PieceRecord(*row) for row in self.connection.execute(query)]

    def pieces_in(self, region: str) -> list[tuple[PieceRecord, bool]]:
        """Every piece in a region's store, and whether it counts and is needed, and so must be there."""
        query = _pieces(and_(t.pieces.c.number >= 0, ~_unneeded())).where(t.pieces.c.region == region)
        return [(PieceRecord(*row[:-1]), bool(row[-1])) for row in self.connection.execute(query)]

    def spent_pieces(self, region: str, limit: int) -> list[PieceRecord]:
        """Pieces in a region's store that are not needed, and never will be again.

        Those that count, of an upload that was given up or whose import has ended; and what processes began that are
        gone. What a living process is about to put is its own affair.
        """
        query = _pieces().where(t.pieces.c.region == region, _spent()).order_by(t.pieces.c.key).limit(limit)
        return [PieceRecord(*row) for row in self.connection.execute(query)]

    def regions_of_spent_pieces(self) -> set[str]:
        """The regions whose stores have such pieces. Mostly there are none, and this is one query for all regions."""
        return set(self.connection.scalars(select(t.pieces.c.region).where(_spent()).distinct()))


class UploadWriter(ObjectWriter, UploadReader):
    """Changes of uploads."""

    def add_upload(self, upload_id: str, account_id: int, request: Mapping[str, Any]) -> UploadRecord:
        """Add an upload of which nothing has come yet. Raises Unprocessable if the account may have no more open."""
        self.check_quota(account_id, "uploads")
        self.connection.execute(
            insert(t.uploads).values(
                id=upload_id, account_id=account_id, request=json.dumps(request), received_bytes=0, spooled_bytes=0,
                packed=False, status="open", created_at=micros(self.moment), touched_at=micros(self.moment),
            )
        )  # fmt: skip
        return self.upload(upload_id, account_id)

    def update_upload(self, upload_id: str, **values: Any) -> None:
        """Change columns of an upload, which is touched by that."""
        touched = {"touched_at": micros(self.moment), **values}
        self.connection.execute(update(t.uploads).where(t.uploads.c.id == upload_id).values(**touched))

    def append_to_upload(self, upload_id: str, at: int, **values: Any) -> None:
        """Let what came from the byte ``at`` on count, by these values of its columns.

        Raises Unprocessable, and nothing of it counts, if other bytes came to count meanwhile, the upload was finished
        or the account may not store so much, and NotFound if it was removed.
        """
        now = self.connection.execute(select(t.uploads).where(t.uploads.c.id == upload_id)).first()
        if now is None or now.status == _REMOVED:
            raise NotFound(GONE)
        if now.status != "open":
            raise Unprocessable("Upload is already finished")
        if now.received_bytes != at:
            raise Unprocessable(
                f"Another piece of this upload came first; the next byte wanted is {now.received_bytes}"
            )
        self._check_room(now, values.get("spooled_bytes", 0) - now.spooled_bytes)
        self.update_upload(upload_id, **values)

    def _check_room(self, upload: Row[Any], more: int) -> None:
        if json.loads(upload.request).get("slug") is None:  # a public image counts for no account
            self.check_quota(upload.account_id, "bytes", more)

    def remove_upload(self, upload_id: str) -> None:
        """Drop an upload. Its row stays, not shown, as long as it has pieces."""
        self.update_upload(upload_id, status=_REMOVED)
        self.drop_upload_holds([upload_id])
        self._forget_removed([upload_id])

    def remove_uploads(self) -> None:
        """Drop all uploads; for ``empty``, which writes down afterwards which objects are loose."""
        self.connection.execute(delete(t.upload_holds))
        self.connection.execute(update(t.uploads).values(status=_REMOVED, image_id=None, action_id=None))
        self._forget_removed(list(self.connection.scalars(select(t.uploads.c.id))))

    def count_block_bytes(self, upload_id: str, size: int, most: int) -> None:
        """Count bytes that came as blocks. Raises NotFound, Unprocessable or ImageTooLarge; then they don't count."""
        upload = self.connection.execute(select(t.uploads).where(t.uploads.c.id == upload_id)).first()
        if upload is None or upload.status == _REMOVED:
            raise NotFound(GONE)
        if upload.status != "open":
            raise Unprocessable("Upload is already finished")
        if upload.received_bytes + size > most:
            raise ImageTooLarge(f"The upload is larger than {most} bytes.")
        self._check_room(upload, size)
        self.update_upload(upload_id, received_bytes=upload.received_bytes + size)

    def add_piece(self, upload_id: str, process_id: int, *, region: str, key: str, size: int) -> None:
        """Say that a process is about to put a piece. Raises NotFound if the upload was removed."""
        if not self._exists(t.uploads.c.id == upload_id, t.uploads.c.status != _REMOVED):
            raise NotFound(GONE)
        values = {"upload_id": upload_id, "number": -process_id, "region": region, "key": key, "bytes": size}
        self.connection.execute(insert(t.pieces).values(**values))

    def count_piece(self, upload_id: str, process_id: int, key: str) -> None:
        """Let a piece that a process has put count, after all others.

        Raises Unprocessable if the process was taken for dead meanwhile: then the piece may be gone already.
        """
        p = t.pieces.c
        last = self.connection.scalar(select(func.max(p.number)).where(p.upload_id == upload_id, p.number >= 0))
        is_its_own = (p.upload_id == upload_id, p.number == -process_id, p.key == key)
        is_alive = exists().where(t.processes.c.id == process_id)
        number = 0 if last is None else last + 1
        done = self.connection.execute(update(t.pieces).where(*is_its_own, is_alive).values(number=number))
        if not done.rowcount:
            raise Unprocessable("The piece took too long to be kept; send it again")

    def forget_pieces(self, pieces: Sequence[PieceRecord]) -> None:
        """Drop the rows of pieces that are no longer in their store, and the removed uploads that have none left."""
        for batch in batches([one.key for one in pieces]):
            self.connection.execute(delete(t.pieces).where(t.pieces.c.key.in_(batch)))
        self._forget_removed(sorted({one.upload_id for one in pieces}))

    def give_up_uploads(self, upload_ids: Sequence[str]) -> None:
        """Drop those of these uploads that are not finished."""
        for batch in batches(upload_ids):
            rows = (t.uploads.c.id.in_(batch), t.uploads.c.status == "open")
            ids = list(self.connection.scalars(select(t.uploads.c.id).where(*rows)))
            self.connection.execute(update(t.uploads).where(*rows).values(status=_REMOVED))
            self.drop_upload_holds(ids)
        self._forget_removed(upload_ids)

    def _forget_removed(self, upload_ids: Sequence[str]) -> None:
        has_none = ~exists().where(t.pieces.c.upload_id == t.uploads.c.id)
        for batch in batches(upload_ids):
            rows = (t.uploads.c.id.in_(batch), t.uploads.c.status == _REMOVED)
            self.connection.execute(delete(t.uploads).where(*rows, has_none))


def _spent() -> ColumnElement[bool]:
    is_left = and_(t.pieces.c.number < 0, ~exists().where(t.processes.c.id == -t.pieces.c.number))
    return or_(is_left, and_(t.pieces.c.number >= 0, _unneeded()))


def _unneeded() -> ColumnElement[bool]:
    """The piece's upload was removed, or finished by an import that has ended. It never is needed again then."""
    is_over = or_(t.uploads.c.status == _REMOVED, is_imported())
    return exists(literal(1)).where(t.uploads.c.id == t.pieces.c.upload_id, is_over)


_NEEDED = with_ids(
    select(t.uploads.c.id).where(
        or_(t.uploads.c.status == "open", and_(t.uploads.c.status == "finished", ~is_imported()))
    )
)


def _pieces(*more: ColumnElement[Any]) -> Select[Any]:
    p = t.pieces.c
    return select(p.upload_id, p.number, p.region, p.key, p.bytes, *more)


def _upload(row: Row[Any]) -> UploadRecord:
    return UploadRecord(
        row.id, row.account_id, json.loads(row.request), row.received_bytes, row.spooled_bytes, row.packed,
        row.status, row.image_id, row.action_id, moment_of(row.created_at), moment_of(row.touched_at),
    )  # fmt: skip
