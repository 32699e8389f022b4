"""What may be asked of the catalog (``Reader``) and what may be changed in it (``Writer``), put together by subject.

Every method is one question or one change; who may do what is decided in ``actions`` and ``lifecycle``.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import delete, insert, select

from wherry.server.catalog import tables as t
from wherry.server.catalog.accounts import AccountReader, AccountWriter
from wherry.server.catalog.droplets import DropletReader, DropletWriter
from wherry.server.catalog.health import HealthReader, HealthWriter
from wherry.server.catalog.objects import ObjectReader, ObjectWriter, loosen
from wherry.server.catalog.pruning import PruningReader, PruningWriter
from wherry.server.catalog.underused import UnderusedReader, UnderusedWriter
from wherry.server.catalog.uploads import UploadReader, UploadWriter
from wherry.server.catalog.usage import UsageReader
from wherry.server.catalog.work import WorkReader, WorkWriter


class Reader(
    AccountReader, DropletReader, WorkReader, ObjectReader, UnderusedReader, UploadReader, UsageReader, HealthReader,
    PruningReader,
):  # fmt: skip
    """Questions to the catalog, all answered from one state of it."""

    def setting(self, name: str) -> Any:
        """What was written down under a name; None if nothing was."""
        found = self.connection.scalar(select(t.facts.c.value).where(t.facts.c.name == name))
        return None if found is None else json.loads(found)


class Writer(
    Reader, AccountWriter, DropletWriter, WorkWriter, UploadWriter, ObjectWriter, UnderusedWriter, HealthWriter,
    PruningWriter,
):  # fmt: skip
    """Changes to the catalog. All that one transaction makes are committed together, or none is."""

    def set_setting(self, name: str, value: Any) -> None:
        """Write something down under a name."""
        self.connection.execute(delete(t.facts).where(t.facts.c.name == name))
        self.connection.execute(insert(t.facts).values(name=name, value=json.dumps(value)))

    def empty(self) -> None:
        """Drop everything but accounts, tokens, the first public images and what is known of stored objects."""
        first = t.images.c.id < t.FIRST_IMAGE_ID
        self.remove_uploads()
        for table in (
            t.droplets, t.reads, t.holds, t.repeats, t.account_transfers, t.taggings, t.tags,
            t.ssh_keys, t.actions,
        ):  # fmt: skip
            self.connection.execute(delete(table))
        self.connection.execute(
            delete(t.replicas).where(t.replicas.c.image_id.not_in(select(t.images.c.id).where(first)))
        )
        self.connection.execute(delete(t.images).where(~first))
        loosen(self.connection, self.connection.scalars(select(t.objects.c.id)).all())
