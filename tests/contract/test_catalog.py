from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text

from wherry.errors import BlockMissing, NotFound, StoreUnavailable, Unavailable, Unprocessable
from wherry.models import ActionError, Progress
from wherry.server.catalog import Catalog, Writer, open_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)


@pytest.fixture
def catalog(open_catalog: Callable[..., Catalog]) -> Catalog:
    """An empty catalog with one account, whose id is 1."""
    catalog = open_catalog(lambda: NOW)
    with catalog.begin() as tx:
        tx.add_account("uuid", "owner@example.invalid", "Owner")
    return catalog


def add_image(tx: Writer, name: str = "web", **values: object) -> int:
    image = tx.add_image(1, name, "snapshot", status="available", distribution="Debian", **values)  # type: ignore[arg-type]  # passed on
    return image.id


def add_replica(tx: Writer, image_id: int, region: str, samples: list[int] | None = None) -> int:
    """Let an action write one pack and a manifest, and record the replica; answers the manifest's id."""
    action = tx.add_action("transfer", account_id=1, image_id=image_id, region=region)
    pack, manifest = f"packs/{action.id}", f"manifests/{action.id}"
    tx.add_object(region, "pack", pack, 100, action_id=action.id, number=0)
    tx.add_object(region, "manifest", manifest, 10, action_id=action.id, number=0)
    named = tx.add_manifest(region, action.id, manifest_key=manifest, packs={pack: 100}, samples=samples or [])
    tx.add_replica(image_id, region, named)
    tx.drop_holds(action.id)
    tx.end_action(action.id)
    return named


def test_what_was_committed_is_read(catalog: Catalog) -> None:
    """An image reads as it was written, its time to the microsecond."""
    with catalog.begin() as tx:
        image_id = add_image(tx, tags=["b", "a"])
    with catalog.read() as reader:
        image = reader.image(image_id, 1)
    assert (image.name, image.type, image.tags, image.regions) == ("web", "snapshot", ("a", "b"), ())
    assert image.created_at == NOW


def test_a_failed_change_leaves_nothing(catalog: Catalog) -> None:
    """What a block did before it raised is not kept."""
    with pytest.raises(RuntimeError, match="changed my mind"), catalog.begin() as tx:
        image_id = add_image(tx)
        raise RuntimeError("changed my mind")
    with catalog.read() as reader, pytest.raises(NotFound):
        reader.image(image_id)


def test_writers_that_share_a_commit_do_not_share_their_failures(catalog: Catalog) -> None:
    """Of many writers at once, those that raise leave nothing, and all others are kept."""
    start = threading.Barrier(20)

    def write(number: int) -> None:
        start.wait()
        try:
            with catalog.begin() as tx:
                add_image(tx, f"image-{number}")
                if number % 3 == 0:
                    raise RuntimeError(str(number))
        except RuntimeError:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with catalog.read() as reader:
        images, total = reader.images(1, limit=100)
    assert {one.name for one in images} == {f"image-{number}" for number in range(20) if number % 3}
    assert total == len(images)


def test_ids_are_never_used_again(catalog: Catalog) -> None:
    """The id of an image that is gone does not come back, and images and actions count apart."""
    with catalog.begin() as tx:
        first = add_image(tx)
        action = tx.add_action("convert", account_id=1, image_id=first, completed=True)
        tx.empty()
    with catalog.begin() as tx:
        assert add_image(tx) == first + 1
    assert first == 200_000_001
    assert action.id > 2**31


def test_one_transfer_of_an_image_to_a_region_runs_at_a_time(catalog: Catalog) -> None:
    """The database refuses a second one, and takes one to another region, or after the first has ended."""
    with catalog.begin() as tx:
        image_id = add_image(tx)
        first = tx.add_action("transfer", account_id=1, image_id=image_id, region="ams3")
        tx.add_action("transfer", account_id=1, image_id=image_id, region="sgp1")
    with pytest.raises(Unprocessable, match="pending event"), catalog.begin() as tx:
        tx.add_action("transfer", account_id=1, image_id=image_id, region="ams3")
    with catalog.begin() as tx:
        tx.end_action(first.id)
        tx.add_action("transfer", account_id=1, image_id=image_id, region="ams3")


def test_an_action_ends_once(catalog: Catalog) -> None:
    """Whoever ends an action first decides how it ended."""
    error = ActionError(code="cancelled", message="Stop.")
    with catalog.begin() as tx:
        action = tx.add_action("transfer", account_id=1, image_id=add_image(tx), region="ams3")
        assert tx.set_progress(action.id, Progress(stage="copy", bytes_sent=5)) is False
        tx.request_cancel(action.id)
        assert tx.set_progress(action.id, Progress(stage="copy", bytes_sent=6)) is True
        tx.end_action(action.id, error)
        tx.end_action(action.id)
        ended = tx.action(action.id)
    assert (ended.status, ended.error, ended.completed_at) == ("errored", error, NOW)
    assert ended.progress == Progress(stage="copy", bytes_sent=6)


def test_the_end_of_an_action_is_told_in_a_line(catalog: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    """Once, and only when it counts: its type, how it ended, and how long it took."""
    with catalog.begin() as tx:
        action = tx.add_action("collect", account_id=None)
    with caplog.at_level("INFO", "wherry.actions"):
        with pytest.raises(RuntimeError), catalog.begin() as tx:
            tx.end_action(action.id)
            raise RuntimeError
        assert caplog.messages == []
        for _ in range(2):
            with catalog.begin() as tx:
                tx.end_action(action.id, ActionError(code="cancelled", message="Stop."))
    assert caplog.messages == [f"action.end action_id={action.id} type=collect status=errored seconds=0.0"]


def test_what_nobody_holds_is_garbage_and_nothing_else(catalog: Catalog) -> None:
    """An object is condemned when the last replica and the last action let go of it, and can't be held again."""
    with catalog.begin() as tx:
        image_id = add_image(tx)
        add_replica(tx, image_id, "nyc3")
        other = tx.add_action("transfer", account_id=1, image_id=image_id, region="ams3")
        tx.hold(other.id, "nyc3", ["packs/3000000001"])
        tx.forget_images([image_id])
        assert [(one.objects, one.bytes) for one in tx.garbage()] == [(1, 10)]
        assert tx.condemn(tx.loose(None, 100)) == 1
        tx.drop_holds(other.id)
        assert tx.loose("ams3", 100) == []
        assert tx.condemn(tx.loose("nyc3", 100)) == 1
        tx.hold(other.id, "nyc3", ["packs/3000000001"])
        assert tx.held(other.id, "nyc3") == []
        condemned = tx.condemned(100)
        assert {one.kind for one in condemned} == {"pack", "manifest"}
        tx.forget_objects([one.id for one in condemned])
        assert tx.garbage() == []


def test_what_is_condemned_can_not_be_added_until_it_is_gone(catalog: Catalog) -> None:
    """An object that is about to be removed is held by nobody, also not by who writes it anew."""
    with catalog.begin() as tx:
        action = tx.add_action("transfer", account_id=1, image_id=add_image(tx), region="ams3")
        assert tx.add_object("ams3", "pack", "packs/x", 10, action_id=action.id, number=0)
        tx.drop_holds(action.id)
        assert tx.condemn(tx.loose(None, 100)) == 1
        with pytest.raises(StoreUnavailable, match="about to be removed"):
            tx.add_object("ams3", "pack", "packs/x", 10, action_id=action.id, number=0)
        assert tx.held(action.id, "ams3") == []
        tx.forget_objects([one.id for one in tx.condemned(100)])
        assert tx.add_object("ams3", "pack", "packs/x", 10, action_id=action.id, number=0)


def test_a_replica_needs_objects_that_its_action_holds(catalog: Catalog) -> None:
    """Completing fails where a pack of the manifest is not held: it might be gone by then."""
    with pytest.raises(BlockMissing, match="does not hold"), catalog.begin() as tx:
        image_id = add_image(tx)
        action = tx.add_action("transfer", account_id=1, image_id=image_id, region="ams3")
        tx.add_object("ams3", "manifest", "manifests/x", 10, action_id=action.id, number=0)
        tx.add_manifest("ams3", action.id, manifest_key="manifests/x", packs={"packs/y": 1}, samples=[])


def test_completing_twice_changes_nothing(catalog: Catalog) -> None:
    """A replica that is there stays as it is."""
    with catalog.begin() as tx:
        image_id = add_image(tx)
        manifest_id = add_replica(tx, image_id, "nyc3")
        before = tx.all_replicas()
        tx.add_replica(image_id, "nyc3", manifest_id)
        assert tx.all_replicas() == before


def test_the_likest_images_come_first_and_others_stay_unseen(catalog: Catalog) -> None:
    """The sparse index finds the account's own and public images, by how many samples they share."""
    with catalog.begin() as tx:
        stranger = tx.add_account("other", "other@example.invalid", "Other").id
        near, far = add_image(tx, "near"), add_image(tx, "far")
        theirs = tx.add_image(stranger, "theirs", "snapshot", status="available", distribution="Debian").id
        nearest, farther, _ = (
            add_replica(tx, image_id, "nyc3", samples)
            for image_id, samples in ((near, [1, 2, 3]), (far, [3, 4]), (theirs, [1, 2, 3, 4]))
        )
        found = tx.similar("nyc3", [1, 2, 3], 1, 8)
        assert [one.id for one in found] == [nearest, farther]
        assert [one.id for one in tx.similar("nyc3", [1, 2, 3], 1, 1)] == [nearest]
        assert tx.similar("ams3", [1, 2, 3], 1, 8) == []


def test_another_accounts_images_and_actions_are_not_found(catalog: Catalog) -> None:
    """What belongs to another account is as if it were not there, unless it is public."""
    with catalog.begin() as tx:
        stranger = tx.add_account("other", "other@example.invalid", "Other").id
        theirs = tx.add_image(stranger, "theirs", "snapshot", status="available", distribution="Debian").id
        action = tx.add_action("convert", account_id=stranger, image_id=theirs, completed=True)
        public = tx.add_image(stranger, "base", "base", status="available", distribution="Debian")
        tx.publish_image(public.id, "debian-12")
        public = tx.image(public.id)
        with pytest.raises(NotFound):
            tx.image(theirs, 1)
        with pytest.raises(NotFound):
            tx.action(action.id, 1)
        assert tx.image(public.id, 1) == tx.image_by_slug("debian-12")
        assert [one.name for one in tx.images(1)[0]] == ["base"]
        assert tx.images(1, private=True)[0] == []


def test_pages_are_windows_of_the_newest_first(catalog: Catalog) -> None:
    """A page holds what was asked for, and the total counts all pages."""
    with catalog.begin() as tx:
        ids = [add_image(tx, f"image-{number}") for number in range(5)]
        images, total = tx.images(1, limit=2, offset=2)
    assert ([one.id for one in images], total) == ([ids[2], ids[1]], 5)


def test_a_repeat_is_remembered_for_its_time(catalog: Catalog) -> None:
    """What an Idempotency-Key stood for is known until it is too old."""
    with catalog.begin() as tx:
        tx.remember(1, "key", "digest", {"actions": [7]})
        assert tx.repeat(1, "key", NOW - timedelta(hours=24)) == ("digest", {"actions": [7]})
        assert tx.repeat(1, "key", NOW + timedelta(seconds=1)) is None
        assert tx.repeat(2, "key", NOW - timedelta(hours=24)) is None


def test_it_opens_again_as_it_was(tmp_path: Path) -> None:
    """A catalog that is closed and opened has what it had; migrations run once."""
    for _ in range(2):
        catalog = open_sqlite(tmp_path / "catalog.db")
        with catalog.begin() as tx:
            if tx.first_account() is None:
                tx.add_account("uuid", "owner@example.invalid", "Owner")
        with catalog.read() as reader:
            assert reader.account(1).uuid == "uuid"
        catalog.close()


def test_a_newer_programs_catalog_is_refused(tmp_path: Path) -> None:
    """A schema that this program does not know is left alone, and the message says what to do."""
    open_sqlite(tmp_path / "catalog.db").close()
    engine = create_engine(f"sqlite:///{tmp_path / 'catalog.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(Unavailable, match="newer wherry"):
        open_sqlite(tmp_path / "catalog.db")
