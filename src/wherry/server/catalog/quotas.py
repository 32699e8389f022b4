"""How much an account may have, and how much it has.

Each quota is one statement that reads the account's limit and counts. It runs in the transaction that adds what it
counts, and only one transaction writes at a time, so two requests can't exceed a limit together.

Public images are the service's and count for no account. Backups count, and are never refused (decision 0039).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, case, func, select

from wherry.errors import Unprocessable
from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import Asker
from wherry.server.catalog.needs import is_imported
from wherry.server.rules.records import QuotaRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import BindParameter, Column, ColumnElement

_ACCOUNT: BindParameter[int] = bindparam("account")


@dataclass(frozen=True)
class Quota:
    """One thing that is counted: the column with an account's limit (null: the default), and what it has."""

    column: Column[int]
    default: int
    used: ColumnElement[int]
    refusal: str


def _kept_of_upload() -> ColumnElement[int]:
    """The bytes of an upload's spool, or of the packs of an upload by blocks, which has no spool."""
    return case((t.uploads.c.spooled_bytes > 0, t.uploads.c.spooled_bytes), else_=t.uploads.c.received_bytes)


def _images() -> tuple[ColumnElement[bool], ...]:
    i = t.images.c
    return i.account_id == _ACCOUNT, i.deleted_at.is_(None), i.status != "deleted", ~i.public


def _droplets() -> tuple[ColumnElement[bool], ...]:
    return t.droplets.c.account_id == _ACCOUNT, t.droplets.c.deleted_at.is_(None)


def _open_uploads() -> tuple[ColumnElement[bool], ...]:
    return t.uploads.c.account_id == _ACCOUNT, t.uploads.c.status == "open"


def _stored() -> ColumnElement[int]:
    """The data of each image in each of its regions, and of each Droplet's disk, as if none shared a block.

    And what is kept of uploads, until the import of a finished one has ended.
    """
    u = t.uploads.c
    is_kept = u.status.in_(("open", "finished")) & ~is_imported()
    of_uploads = select(func.coalesce(func.sum(_kept_of_upload()), 0)).where(u.account_id == _ACCOUNT, is_kept)
    in_regions = t.images.join(t.replicas, t.replicas.c.image_id == t.images.c.id)  # a row for each region
    of_images = select(func.coalesce(func.sum(t.images.c.data_bytes), 0)).select_from(in_regions).where(*_images())
    of_droplets = select(func.coalesce(func.sum(t.droplets.c.data_bytes), 0)).where(*_droplets())
    return of_images.scalar_subquery() + of_droplets.scalar_subquery() + of_uploads.scalar_subquery()


def _count(*where: ColumnElement[bool]) -> ColumnElement[int]:
    return select(func.count()).where(*where).scalar_subquery()


QUOTAS = {
    "droplets": Quota(
        t.accounts.c.droplet_limit, 1_000, _count(*_droplets()),
        "creating this/these droplet(s) will exceed your droplet limit",  # DigitalOcean's own words
    ),
    "images": Quota(
        t.accounts.c.image_limit, 20_000, _count(*_images()),
        "this image will exceed your image limit: {used} of {limit} are in use",
    ),
    "tags": Quota(
        t.accounts.c.tag_limit, 10_000, _count(t.tags.c.account_id == _ACCOUNT),
        "creating this/these tag(s) will exceed your tag limit: {used} of {limit} are in use",
    ),
    "keys": Quota(
        t.accounts.c.key_limit, 1_000, _count(t.ssh_keys.c.account_id == _ACCOUNT),
        "this SSH key will exceed your limit of SSH keys: {used} of {limit} are in use",
    ),
    "uploads": Quota(
        t.accounts.c.upload_limit, 500, _count(*_open_uploads()),
        "this upload will exceed your limit of open uploads: {used} of {limit} are in use; finish or delete one",
    ),
    "bytes": Quota(
        t.accounts.c.byte_limit, 100 << 40, _stored(),
        "storing this will exceed your storage limit: {used} of {limit} bytes are in use",
    ),
}  # fmt: skip
"""What is counted for an account, by name."""

_STATEMENTS = {
    name: select(func.coalesce(quota.column, quota.default), quota.used).where(t.accounts.c.id == _ACCOUNT)
    for name, quota in QUOTAS.items()
}


class QuotaReader(Asker):
    """Questions about what an account may have."""

    def quotas(self, account_id: int) -> dict[str, QuotaRecord]:
        """What an account may have and has, by the quotas' names."""
        counted = {name: self.connection.execute(query, {"account": account_id}) for name, query in _STATEMENTS.items()}
        return {name: QuotaRecord(*map(int, rows.one())) for name, rows in counted.items()}

    def kept_of_upload(self, source: Mapping[str, Any]) -> int:
        """The bytes that count for the upload that an import reads, and no longer when it ends; 0 if it reads none."""
        upload_id = source.get("upload") or source.get("blocks")
        return int(self.connection.scalar(select(_kept_of_upload()).where(t.uploads.c.id == upload_id)) or 0)

    def check_quota(self, account_id: int, name: str, more: int = 1) -> None:
        """Raise Unprocessable if an account may not have so much more; to be called before that is added."""
        if more <= 0:
            return
        limit, used = map(int, self.connection.execute(_STATEMENTS[name], {"account": account_id}).one())
        if used + more > limit:
            raise Unprocessable(QUOTAS[name].refusal.format(used=used, limit=limit))
