"""What an account may have: counted by the catalog, in the transaction that adds it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from tests.support.catalogs import lay_catalog

from wherry.errors import Unprocessable
from wherry.server.catalog import open_sqlite
from wherry.server.catalog.quotas import QUOTAS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wherry.server.catalog import Catalog, Reader, Writer

OWNER, OTHER = 1, 2


def used(reader: Reader, account_id: int = OWNER) -> dict[str, int]:
    return {name: quota.used for name, quota in reader.quotas(account_id).items()}


def add_image(tx: Writer, size: int = 0, account_id: int = OWNER, regions: tuple[str, ...] = ("nyc3",)) -> int:
    """Add an image with so many bytes of data in regions."""
    image = tx.add_image(account_id, "web", "snapshot", status="available", distribution="Debian")
    tx.update_image(image.id, data_bytes=size)
    action = tx.add_action("import", account_id=account_id, image_id=image.id, region="nyc3")
    for region in regions:
        tx.add_object(region, "manifest", f"{region}-{image.id}", 1, action_id=action.id, number=0)
        manifest = tx.add_manifest(region, action.id, manifest_key=f"{region}-{image.id}", packs={}, samples=[])
        tx.add_replica(image.id, region, manifest)
    tx.end_action(action.id)
    tx.drop_holds(action.id)
    return image.id


def add_droplet(tx: Writer, image_id: int, size: int = 0) -> int:
    manifest = tx.replicas(image_id)[0].manifest_id
    return tx.add_droplets(
        OWNER, ["web"], region="nyc3", size="s-1vcpu-1gb", is_gpu=False, image_id=image_id, manifest_id=manifest,
        virtual_bytes=size, data_bytes=size, fingerprint="f", facts={}, policy=None,
    )[0]  # fmt: skip


def test_limits_are_generous_until_they_are_set(catalog: Catalog) -> None:
    """Each account has its own; None is the default again, and DigitalOcean's droplet_limit is one of them."""
    defaults = {name: quota.default for name, quota in QUOTAS.items()}
    with catalog.begin() as tx:
        tx.set_limits(OWNER, {"droplets": 7, "bytes": 1 << 45})
        assert {name: one.limit for name, one in tx.quotas(OWNER).items()} == {
            **defaults, "droplets": 7, "bytes": 1 << 45,
        }  # fmt: skip
        assert {name: one.limit for name, one in tx.quotas(OTHER).items()} == defaults
        assert tx.account(OWNER).droplet_limit == 7

        tx.set_limits(OWNER, {"droplets": None})
        assert tx.account(OWNER).droplet_limit == defaults["droplets"]


def test_what_an_account_has_is_counted(catalog: Catalog) -> None:
    """What is deleted, public, finished or another account's does not count; a Droplet's disk and each region do."""
    with catalog.begin() as tx:
        first = add_image(tx, 100, regions=("nyc3", "ams3"))
        add_droplet(tx, first, 30)
        tx.forget_droplets([add_droplet(tx, first, 5)])
        tx.forget_images([add_image(tx, 1000)])
        tx.update_image(add_image(tx, 1000), status="deleted")  # an import that failed
        tx.publish_image(add_image(tx, 1000), "debian")
        add_image(tx, 1000, OTHER)
        tx.tag_resources(OWNER, "image", [first], ["a", "b", "A"])
        tx.add_upload("open", OWNER, {})
        tx.append_to_upload("open", 0, received_bytes=50, spooled_bytes=7)
        tx.add_upload("blocks", OWNER, {})
        tx.count_block_bytes("blocks", 40, 100)
        tx.add_upload("finished", OWNER, {})
        tx.append_to_upload("finished", 0, received_bytes=50, spooled_bytes=8)
        tx.add_ssh_key(OWNER, "key", "ssh-ed25519 AAAA", "ab:cd")
        tx.update_upload("finished", status="finished", image_id=first)
        tx.add_upload("theirs", OTHER, {})

        assert used(tx) == {"droplets": 1, "images": 1, "tags": 2, "keys": 1, "uploads": 2, "bytes": 277}
        assert used(tx, OTHER) == {
            "droplets": 0, "images": 1, "tags": 0, "keys": 0, "uploads": 1, "bytes": 1000,
        }  # fmt: skip


ADDERS: dict[str, Callable[[Writer, int], object]] = {
    "images": lambda tx, number: tx.add_image(OWNER, f"{number}", "custom", status="NEW", distribution="Unknown"),
    "tags": lambda tx, number: tx.add_tag(OWNER, f"tag-{number}"),
    "keys": lambda tx, number: tx.add_ssh_key(OWNER, "key", f"ssh-ed25519 {number}", f"{number}"),
    "uploads": lambda tx, number: tx.add_upload(f"upload-{number}", OWNER, {}),
}


@pytest.mark.parametrize("name", ADDERS)
def test_a_limit_holds_against_racers(open_catalog: Callable[..., Catalog], name: str) -> None:
    """Two processes whose threads add at once exceed no limit together, and reach it."""
    processes = [open_catalog(), open_catalog()]
    with processes[0].begin() as tx:
        tx.add_account("uuid", "owner@example.invalid", "Owner")
        tx.set_limits(OWNER, {name: 5})

    def add(number: int) -> None:
        with suppress(Unprocessable), processes[number % 2].begin() as tx:
            ADDERS[name](tx, number)

    with ThreadPoolExecutor(8) as racers:
        list(racers.map(add, range(24)))

    with processes[0].read() as reader:
        assert used(reader)[name] == 5


def test_uploads_hold_no_more_than_may_be_stored(catalog: Catalog) -> None:
    """What would be too much does not count, of a spool as by blocks; a public image's upload has no limit."""
    with catalog.begin() as tx:
        tx.set_limits(OWNER, {"bytes": 100})
        for name in ("spooled", "blocks"):
            tx.add_upload(name, OWNER, {})
        tx.append_to_upload("spooled", 0, received_bytes=500, spooled_bytes=60)
        tx.count_block_bytes("blocks", 30, 1000)
        with pytest.raises(Unprocessable, match="storage limit: 90 of 100 bytes are in use"):
            tx.append_to_upload("spooled", 500, received_bytes=600, spooled_bytes=71)
        with pytest.raises(Unprocessable, match="storage limit: 90 of 100 bytes are in use"):
            tx.count_block_bytes("blocks", 11, 1000)
        assert (tx.upload("spooled", OWNER).received_bytes, used(tx)["bytes"]) == (500, 90)

        tx.append_to_upload("spooled", 500, received_bytes=600, spooled_bytes=70)
        assert used(tx)["bytes"] == 100
        tx.add_upload("public", OWNER, {"slug": "debian"})
        tx.append_to_upload("public", 0, received_bytes=500, spooled_bytes=500)
        tx.remove_upload("spooled")
        tx.remove_upload("public")
        assert used(tx)["bytes"] == 30


def test_a_finished_upload_counts_until_its_import_has_ended(catalog: Catalog) -> None:
    """The image that it became counts then; at the end of its import, an account does not need room for both."""
    with catalog.begin() as tx:
        image_id = add_image(tx)
        action = tx.add_action("import", account_id=OWNER, image_id=image_id, region="nyc3", detail={})
        tx.add_upload("finished", OWNER, {})
        tx.append_to_upload("finished", 0, received_bytes=50, spooled_bytes=8)
        tx.update_upload("finished", status="finished", image_id=image_id)

        assert used(tx)["bytes"] == 8
        assert tx.kept_of_upload({"upload": "finished"}) == 8
        assert tx.kept_of_upload({"url": "https://images.example/disk"}) == 0
        tx.end_action(action.id)
        assert used(tx)["bytes"] == 0


def test_tags_are_added_together_or_not_at_all(catalog: Catalog) -> None:
    """Those that there are already need no room; a limit below what there is takes nothing away."""
    with catalog.begin() as tx:
        tx.set_limits(OWNER, {"tags": 3})
        image_id = add_image(tx)
        tx.tag_resources(OWNER, "image", [image_id], ["a", "b"])
        with pytest.raises(Unprocessable, match=r"will exceed your tag limit: 2 of 3 are in use"):
            tx.tag_resources(OWNER, "image", [image_id], ["a", "c", "d"])
        tx.tag_resources(OWNER, "image", [image_id], ["a", "b", "c"])
        tx.set_limits(OWNER, {"tags": 1})
        tx.tag_resources(OWNER, "image", [image_id], ["a", "b", "c"])
        assert tx.add_tag(OWNER, "A") == tx.add_tag(OWNER, "a")
        assert used(tx)["tags"] == 3


def test_an_image_is_not_given_to_an_account_that_may_not_have_it(catalog: Catalog) -> None:
    """By number as by bytes, in all of its regions."""
    with catalog.begin() as tx:
        image_id = add_image(tx, 100, regions=("nyc3", "ams3"))
        tx.set_limits(OTHER, {"images": 0})
        with pytest.raises(Unprocessable, match="image limit"):
            tx.give_image(image_id, OTHER)
        tx.set_limits(OTHER, {"images": 1, "bytes": 199})
        with pytest.raises(Unprocessable, match="storage limit: 0 of 199 bytes"):
            tx.give_image(image_id, OTHER)
        tx.set_limits(OTHER, {"bytes": 200})
        tx.give_image(image_id, OTHER)
        assert used(tx, OTHER)["bytes"] == 200
        assert used(tx)["bytes"] == 0


def test_counting_reads_one_index_each(tmp_path: Path) -> None:
    """What is deleted costs nothing: images and Droplets stay as rows for ever, and a count must not read those.

    Of SQLite alone: PostgreSQL plans by the rows that there are.
    """
    catalog = open_sqlite(lay_catalog(tmp_path))
    with catalog.read() as reader:
        for name, index in (("images", "images_kept"), ("droplets", "droplets_kept")):
            said = str(QUOTAS[name].used).replace(":account", "1").replace(":status_1", "'deleted'")
            plan = reader.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN SELECT {said}").all()
            assert any(f"COVERING INDEX {index}" in row[-1] for row in plan), plan
    catalog.close()
