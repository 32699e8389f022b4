"""The rule that decides what may be deleted, against a model that looks at one object after another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select

from wherry.server.catalog import needs
from wherry.server.catalog import tables as t

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

    from wherry.server.catalog import Catalog

MANIFESTS = range(1, 6)
PACKS = range(6, 12)
EMPTIED = (t.refs, t.holds, t.upload_holds, t.uploads, t.reads, t.replicas, t.droplets, t.objects, t.images, t.actions)


@dataclass
class Objects:
    """What leads to each of five manifests and six packs."""

    replicas: set[int] = field(default_factory=set)
    droplets: set[int] = field(default_factory=set)
    reads: set[int] = field(default_factory=set)
    holds: set[int] = field(default_factory=set)
    refs: set[tuple[int, int]] = field(default_factory=set)  # pack, manifest
    uploads: set[int] = field(default_factory=set)

    def is_named(self, one: int) -> bool:
        return one in self.replicas or one in self.droplets

    def is_held(self, one: int) -> bool:
        return one in self.holds or one in self.reads or one in self.uploads

    def above(self, pack: int) -> list[int]:
        """The manifests that reference a pack."""
        return [manifest for lower, manifest in self.refs if lower == pack]

    def named(self) -> set[int]:
        return {one for one in [*MANIFESTS, *PACKS] if self.is_named(one)}

    def referenced(self) -> set[int]:
        return {one for one in PACKS if self.above(one)}

    def needed(self) -> set[int]:
        through = {one for one in PACKS if any(self.is_named(manifest) for manifest in self.above(one))}
        return self.named() | through

    def unreferenced(self) -> set[int]:
        return {
            one
            for one in [*MANIFESTS, *PACKS]
            if not any(self.is_named(each) or self.is_held(each) for each in [one, *self.above(one)])
        }

    def write(self, connection: Connection) -> None:
        """Make the rows, instead of all that there are."""
        for table in EMPTIED:
            connection.execute(delete(table))
        rows = {t.objects: [
            {"id": one, "region": "nyc3", "kind": "manifest" if one in MANIFESTS else "pack", "key": f"o/{one}",
             "bytes": 1, "state": "live", "action_id": 1, "number": 0} for one in [*MANIFESTS, *PACKS]
        ]}  # fmt: skip
        rows[t.actions] = [{"id": 1, "type": "import", "status": "in-progress", "started_at": 0}]
        rows[t.images] = [
            {"id": one, "account_id": 1, "name": "", "type": "custom", "distribution": "", "public": False,
             "status": "available", "error_message": "", "created_at": 0} for one in [0, *self.replicas]
        ]  # fmt: skip
        rows[t.replicas] = [{"image_id": one, "region": "nyc3", "manifest_id": one} for one in self.replicas]
        rows[t.droplets] = [
            {"account_id": 1, "name": "", "status": "active", "region": "nyc3", "size": "", "is_gpu": False,
             "image_id": 0, "manifest_id": one, "virtual_bytes": 0, "data_bytes": 0, "fingerprint": "", "facts": "{}",
             "created_at": 0} for one in self.droplets
        ]  # fmt: skip
        rows[t.reads] = [{"manifest_id": one} for one in self.reads]
        rows[t.holds] = [{"object_id": one, "action_id": 1} for one in self.holds]
        rows[t.uploads] = [
            {"id": "u", "account_id": 1, "request": "{}", "received_bytes": 0, "spooled_bytes": 0, "packed": False,
             "status": "open", "created_at": 0}
        ]  # fmt: skip
        rows[t.upload_holds] = [{"object_id": one, "upload_id": "u"} for one in self.uploads]
        rows[t.refs] = [{"object_id": pack, "manifest_id": manifest} for pack, manifest in self.refs]
        for table, values in rows.items():
            if values:
                connection.execute(insert(table), values)


manifests = st.sets(st.sampled_from(MANIFESTS))
catalogs = st.builds(
    Objects, manifests, manifests, manifests, st.sets(st.sampled_from([*MANIFESTS, *PACKS])),
    st.sets(st.tuples(st.sampled_from(PACKS), st.sampled_from(MANIFESTS))),
    st.sets(st.sampled_from([*MANIFESTS, *PACKS])),
)  # fmt: skip

# Rows are made anew for each example, so the catalog may be one for all of them.
many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def chosen(connection: Connection, condition: ColumnElement[bool]) -> set[int]:
    return set(connection.scalars(select(t.objects.c.id).where(condition)))


@many
@given(objects=catalogs)
def test_the_rule_is_the_models(catalog: Catalog, objects: Objects) -> None:
    """Each condition holds for the objects for which the model says so, and for no other."""
    with catalog.begin() as tx:
        objects.write(tx.connection)
        assert chosen(tx.connection, needs.named(t.objects.c.id)) == objects.named()
        assert chosen(tx.connection, needs.referenced()) == objects.referenced()
        assert chosen(tx.connection, needs.needed()) == objects.needed()
        assert chosen(tx.connection, needs.unreferenced()) == objects.unreferenced()


@pytest.mark.parametrize("source", ["replicas", "droplets", "reads", "holds", "uploads"])
def test_each_need_keeps_a_manifest_and_its_packs(catalog: Catalog, source: str) -> None:
    """A single replica, Droplet, export or hold keeps a manifest and what it references, and nothing else."""
    objects = Objects(refs={(6, 1), (7, 2)})
    getattr(objects, source).add(1)
    with catalog.begin() as tx:
        objects.write(tx.connection)
        kept = {*MANIFESTS, *PACKS} - chosen(tx.connection, needs.unreferenced())
    assert kept == {1, 6}
