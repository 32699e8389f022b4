"""Uploads: bytes that are on their way in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import Asker, Changer, micros, moment_of
from wherry.server.catalog.records import UploadRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Row


class UploadReader(Asker):
    """Questions about uploads."""

    def upload(self, upload_id: str, account_id: int) -> UploadRecord:
        """The account's upload with this id. Raises NotFound."""
        found = (t.uploads.c.id == upload_id, t.uploads.c.account_id == account_id)
        return _upload(self._one(select(t.uploads).where(*found)))

    def uploads(self) -> list[UploadRecord]:
        """Every upload that is not finished."""
        return [_upload(row) for row in self.connection.execute(select(t.uploads).where(t.uploads.c.status == "open"))]


class UploadWriter(Changer, UploadReader):
    """Changes of uploads."""

    def add_upload(self, upload_id: str, account_id: int, request: Mapping[str, Any]) -> UploadRecord:
        """Add an upload of which nothing has come yet."""
        self.connection.execute(
            insert(t.uploads).values(
                id=upload_id, account_id=account_id, request=json.dumps(request), received_bytes=0, spooled_bytes=0,
                packed=False, status="open", created_at=micros(self.moment),
            )
        )  # fmt: skip
        return self.upload(upload_id, account_id)

    def update_upload(self, upload_id: str, **values: Any) -> None:
        """Change columns of an upload."""
        self.connection.execute(update(t.uploads).where(t.uploads.c.id == upload_id).values(**values))

    def remove_upload(self, upload_id: str) -> None:
        """Drop an upload."""
        self.connection.execute(delete(t.uploads).where(t.uploads.c.id == upload_id))


def _upload(row: Row[Any]) -> UploadRecord:
    return UploadRecord(
        row.id, row.account_id, json.loads(row.request), row.received_bytes, row.spooled_bytes, row.packed,
        row.status, row.image_id, row.action_id, moment_of(row.created_at),
    )  # fmt: skip
