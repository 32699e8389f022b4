"""Which stored objects are still needed: the one rule that decides what may be deleted.

A manifest is *named* if a replica or a Droplet names it. An object is *needed* if it is a named manifest, or a pack
that a named manifest references: it must be in its store. An object is *held* if an action or an upload holds it, or an
export reads it. An object is *unreferenced* if neither applies to it, nor to a manifest that references it: only then
may ``collect`` delete it. No clock and no listing has a say in that.

Each function is a condition for a statement. Those without an argument are about the row of ``objects`` that the
statement selects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, exists, or_

from wherry.server.catalog import tables as t

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement


def named(manifest_id: ColumnElement[int]) -> ColumnElement[bool]:
    """A replica or a Droplet names this manifest."""
    return or_(
        exists().where(t.replicas.c.manifest_id == manifest_id),
        exists().where(t.droplets.c.manifest_id == manifest_id),
    )


def held(object_id: ColumnElement[int]) -> ColumnElement[bool]:
    """An action or an upload holds this object, or an export reads this manifest."""
    return or_(
        exists().where(t.holds.c.object_id == object_id),
        exists().where(t.upload_holds.c.object_id == object_id),
        exists().where(t.reads.c.manifest_id == object_id),
    )


def referenced() -> ColumnElement[bool]:
    """A manifest references this pack, whether or not it is named."""
    return exists().where(t.refs.c.object_id == t.objects.c.id)


def needed() -> ColumnElement[bool]:
    """The object is a named manifest, or a named manifest references it."""
    object_id, refs = t.objects.c.id, t.refs.c
    return or_(named(object_id), exists().where(refs.object_id == object_id, named(refs.manifest_id)))


def unreferenced() -> ColumnElement[bool]:
    """The object is neither needed nor held, by itself or through a manifest that references it."""
    object_id, refs = t.objects.c.id, t.refs.c
    through = exists().where(refs.object_id == object_id, or_(named(refs.manifest_id), held(refs.manifest_id)))
    return ~or_(held(object_id), named(object_id), through)


def is_imported() -> ColumnElement[bool]:
    """The upload was finished, and its import has ended."""
    running = t.actions.c.status == "in-progress"
    into_image = exists().where(running, t.actions.c.type == "import", t.actions.c.resource_id == t.uploads.c.image_id)
    into_disk = exists().where(running, t.actions.c.id == t.uploads.c.action_id)
    return and_(t.uploads.c.status == "finished", ~into_image, ~into_disk)
