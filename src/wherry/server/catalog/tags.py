"""Tags, and what has them. A tag's first spelling is the one that counts, however it is spelled later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, func, select

from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import Changer, batches, with_ids
from wherry.server.catalog.quotas import QuotaReader
from wherry.server.rules.records import TagRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Select

    from wherry.server.rules.records import ResourceKind


class TagReader(QuotaReader):
    """Questions about tags."""

    def tag(self, account_id: int, name: str) -> TagRecord:
        """The account's tag of this name, in its own spelling. Raises NotFound."""
        row = self._one(select(t.tags).where(*_spelled(account_id, name), t.tags.c.name == name))
        return self._with_counts([(row.id, row.name)])[0]

    def tag_by_id(self, tag_id: int) -> TagRecord:
        """The tag with this id. Raises NotFound."""
        row = self._one(select(t.tags).where(t.tags.c.id == tag_id))
        return self._with_counts([(row.id, row.name)])[0]

    def tags(self, account_id: int, *, limit: int, offset: int) -> tuple[list[TagRecord], int]:
        """A page of the account's tags by their names, and how many there are in all."""
        own = t.tags.c.account_id == account_id
        query = select(t.tags.c.id, t.tags.c.name).where(own).order_by(t.tags.c.folded).limit(limit).offset(offset)
        total = self.connection.scalar(select(func.count()).select_from(t.tags).where(own))
        return self._with_counts([(row.id, row.name) for row in self.connection.execute(query)]), total or 0

    def tagged(self, account_id: int, kind: ResourceKind, name: str, limit: int | None = None) -> list[int]:
        """The ids of the resources of one kind with a tag, in any case; none for a tag that does not exist."""
        query = ids_of(kind).order_by(t.taggings.c.resource_id).limit(limit)
        return list(self.connection.scalars(query, {"account": account_id, "folded_tag": name.lower()}))

    def _with_counts(self, tags: Sequence[tuple[int, str]]) -> list[TagRecord]:
        g = t.taggings.c
        query = select(g.tag_id, g.resource_type, func.count(), func.max(g.id)).where(
            g.tag_id.in_([tag_id for tag_id, _ in tags])
        )
        counts: dict[int, dict[ResourceKind, int]] = {}
        newest: dict[int, dict[ResourceKind, int]] = {}
        for tag_id, kind, count, last in self.connection.execute(query.group_by(g.tag_id, g.resource_type)):
            counts.setdefault(tag_id, {})[kind] = count
            newest.setdefault(tag_id, {})[kind] = last
        lasts = [last for by_kind in newest.values() for last in by_kind.values()]
        rows = self.connection.execute(select(g.id, g.resource_id).where(g.id.in_(lasts)))
        resources = {row.id: row.resource_id for row in rows}
        found = []
        for tag_id, name in tags:
            in_order = sorted(newest.get(tag_id, {}).items(), key=lambda one: one[1])
            last = {kind: resources[tagging] for kind, tagging in in_order}
            found.append(TagRecord(tag_id, name, counts.get(tag_id, {}), last))
        return found


class TagWriter(Changer, TagReader):
    """Changes of tags."""

    def add_tag(self, account_id: int, name: str) -> int:
        """The tag of this name, in any case; it is added if there is none. Returns its id.

        Raises Unprocessable if the account may have no more tags; so does ``tag_resources``.
        """
        found: int | None = self.connection.scalar(select(t.tags.c.id).where(*_spelled(account_id, name)))
        if found is not None:
            return found
        self.check_quota(account_id, "tags")
        return self._insert(t.tags, account_id=account_id, name=name, folded=name.lower())

    def remove_tag(self, tag_id: int) -> None:
        """Drop a tag; whatever had it loses it."""
        self.connection.execute(delete(t.taggings).where(t.taggings.c.tag_id == tag_id))
        self.connection.execute(delete(t.tags).where(t.tags.c.id == tag_id))

    def assign_tag(self, tag_id: int, kind: ResourceKind, resource_ids: Sequence[int]) -> None:
        """Tag resources of one kind; a second time does nothing."""
        g = t.taggings.c
        ids = list(dict.fromkeys(resource_ids))
        this = (g.tag_id == tag_id, g.resource_type == kind)
        have: set[int] = set()
        for batch in batches(ids):
            have.update(self.connection.scalars(select(g.resource_id).where(*this, g.resource_id.in_(batch))))
        self._tag((tag_id, kind, each) for each in ids if each not in have)

    def unassign_tag(self, tag_id: int, kind: ResourceKind, resource_ids: Sequence[int]) -> None:
        """Take a tag from resources of one kind; one that does not have it is fine."""
        g = t.taggings.c
        for batch in batches(resource_ids):
            these = (g.tag_id == tag_id, g.resource_type == kind, g.resource_id.in_(batch))
            self.connection.execute(delete(t.taggings).where(*these))

    def tag_resources(
        self, account_id: int, kind: ResourceKind, resource_ids: Sequence[int], names: Iterable[str]
    ) -> None:
        """Give resources all these tags; those that do not exist yet are made."""
        spelled: dict[str, str] = {}
        for name in names:
            spelled.setdefault(name.lower(), name)
        if not spelled:
            return
        known = self._ids_by_folded(account_id, list(spelled))
        missing = [
            {"account_id": account_id, "name": name, "folded": folded}
            for folded, name in spelled.items()
            if folded not in known
        ]
        if missing:
            self.check_quota(account_id, "tags", len(missing))
            self._insert_together(t.tags, missing)
            known = self._ids_by_folded(account_id, list(spelled))
        g = t.taggings.c
        query = select(g.resource_id, g.tag_id).where(g.resource_type == kind)
        has = {
            (row.tag_id, kind, row.resource_id)
            for batch in batches(resource_ids)
            for row in self.connection.execute(query.where(g.resource_id.in_(batch)))
        }
        wanted = ((known[folded], kind, resource_id) for resource_id in resource_ids for folded in spelled)
        self._tag(tagging for tagging in wanted if tagging not in has)

    def _ids_by_folded(self, account_id: int, folded: Sequence[str]) -> dict[str, int]:
        own = select(t.tags.c.folded, t.tags.c.id).where(t.tags.c.account_id == account_id)
        return {
            row.folded: row.id
            for batch in batches(folded)
            for row in self.connection.execute(own.where(t.tags.c.folded.in_(batch)))
        }

    def _tag(self, taggings: Iterable[tuple[int, ResourceKind, int]]) -> None:
        names = ("tag_id", "resource_type", "resource_id")
        self._insert_together(t.taggings, [dict(zip(names, each, strict=True)) for each in taggings])

    def untag(self, kind: ResourceKind, resource_ids: Sequence[int]) -> None:
        """Take all tags from resources."""
        g = t.taggings.c
        for batch in batches(resource_ids):
            self.connection.execute(delete(t.taggings).where(g.resource_type == kind, g.resource_id.in_(batch)))


def names_of(kind: ResourceKind) -> Select[tuple[int, str]]:
    """The tags' names by the ids of the resources of one kind: a statement ``with_ids``."""
    return with_ids(
        select(t.taggings.c.resource_id, t.tags.c.name)
        .join(t.tags, t.tags.c.id == t.taggings.c.tag_id)
        .where(t.taggings.c.resource_type == kind)
        .order_by(t.tags.c.folded)
    )


def ids_of(kind: ResourceKind) -> Select[tuple[int]]:
    """The ids of the resources of one kind with the tag ``folded_tag`` of ``account``; a part of other statements."""
    return (
        select(t.taggings.c.resource_id)
        .join(t.tags, t.tags.c.id == t.taggings.c.tag_id)
        .where(
            t.tags.c.account_id == bindparam("account"),
            t.tags.c.folded == bindparam("folded_tag"),
            t.taggings.c.resource_type == kind,
        )
    )


def _spelled(account_id: int, name: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return t.tags.c.account_id == account_id, t.tags.c.folded == name.lower()
