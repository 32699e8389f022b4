from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace as replace_struct

from wherry.errors import BadRequest, Forbidden, TagRefused, Unprocessable
from wherry.models import Region, Size
from wherry.server.rules import lifecycle
from wherry.server.rules.dispatch import Lane
from wherry.server.rules.records import ActionRecord, DropletRecord, ImageRecord

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MOVES = ["image_transfer"]
REGIONS = {
    "nyc3": Region(name="New York 3", slug="nyc3", features=MOVES),
    "ams3": Region(name="Amsterdam 3", slug="ams3", features=MOVES, available=False),
    "ams1": Region(name="Amsterdam 1", slug="ams1"),
}
SNAPSHOT = ImageRecord(
    id=1, account_id=1, name="web", type="snapshot", distribution="Debian", slug=None, public=False, status="available",
    error_message="", description=None, created_at=NOW, deleted_at=None, virtual_bytes=1, data_bytes=1, fingerprint="f",
    resource_id=None, regions=("nyc3",),
)  # fmt: skip
RUNNING = [
    ActionRecord(
        id=7, account_id=1, type="transfer", status="in-progress", resource_id=1, resource_type="image", region="ams3",
        started_at=NOW, completed_at=None, error=None, progress=None, attempts=1, cancel_requested=False,
        lane=Lane(is_background=False, account_id=1, source="nyc3", target="ams3"),
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("image", "region", "message"),
    [
        (replace(SNAPSHOT, type="backup"), "ams3", "Backups can not be transfered to other regions"),
        (replace(SNAPSHOT, status="pending"), "ams3", "Image is not available"),
        (SNAPSHOT, None, "Region can't be blank"),
        (SNAPSHOT, "", "Region can't be blank"),
        (SNAPSHOT, "xyz9", "You specified an invalid region for the image transfer."),
        (SNAPSHOT, "nyc3", "Image is already available in that region"),
        (SNAPSHOT, "ams1", "Image transfer is not available in that region"),
    ],
)
def test_a_transfer_against_the_rules_is_refused(image: ImageRecord, region: str | None, message: str) -> None:
    """A transfer that the contract forbids is refused with the contract's text."""
    with pytest.raises(Unprocessable) as refused:
        lifecycle.check_transfer(image, region, REGIONS)
    assert refused.value.message == message


@pytest.mark.parametrize("kind", ["snapshot", "custom"])
def test_snapshots_and_custom_images_may_be_transferred(kind: str) -> None:
    """A transfer to a region without the image is legal, even to one that takes no new Droplets."""
    assert lifecycle.check_transfer(replace(SNAPSHOT, type=kind), "ams3", REGIONS).slug == "ams3"


@pytest.mark.parametrize(
    "check",
    [
        lambda image: lifecycle.check_transfer(image, "ams3", REGIONS),
        lambda image: lifecycle.check_convert(image, []),
        lambda image: lifecycle.check_delete(image, 1, []),
        lambda image: lifecycle.check_update(image, "name"),
        lambda image: lifecycle.check_remove_replica(image, "nyc3", []),
    ],
)
def test_public_images_are_not_to_be_written(check: Callable[[ImageRecord], object]) -> None:
    """Any write on a public image is forbidden."""
    with pytest.raises(Forbidden) as refused:
        check(replace(SNAPSHOT, public=True))
    assert refused.value.message == "You do not have access for the attempted action."


def test_only_an_idle_backup_may_be_converted() -> None:
    """Convert takes a backup on which nothing else runs."""
    backup = replace(SNAPSHOT, type="backup")
    lifecycle.check_convert(backup, [])
    with pytest.raises(Unprocessable, match="Only backups can be converted to snapshots"):
        lifecycle.check_convert(SNAPSHOT, [])
    with pytest.raises(Unprocessable, match="Image already has a pending event."):
        lifecycle.check_convert(backup, RUNNING)


def test_a_busy_image_is_not_deleted() -> None:
    """Deleting excludes every action in progress."""
    lifecycle.check_delete(SNAPSHOT, 1, [])
    with pytest.raises(Unprocessable, match="Image already has a pending event."):
        lifecycle.check_delete(SNAPSHOT, 1, RUNNING)


def test_the_last_replica_stays() -> None:
    """An image can be removed from a region, but not from its last one, and not from one where it is not."""
    both = replace(SNAPSHOT, regions=("nyc3", "ams3"))
    lifecycle.check_remove_replica(both, "ams3", [])
    with pytest.raises(Unprocessable, match="last region"):
        lifecycle.check_remove_replica(SNAPSHOT, "nyc3", [])
    with pytest.raises(Unprocessable, match="not in that region"):
        lifecycle.check_remove_replica(both, "ams1", [])


@pytest.mark.parametrize(
    ("name", "region", "message"),
    [
        (None, "nyc3", "Name can't be blank"),
        ("  ", "nyc3", "Name can't be blank"),
        ("x" * 256, "nyc3", "Name is too long (maximum is 255 characters)"),
        ("x", None, "Region can't be blank"),
        ("x", "xyz9", "You specified an invalid region for Image creation."),
    ],
)
def test_a_new_image_needs_a_name_and_a_region(name: str | None, region: str | None, message: str) -> None:
    """What a new image lacks is named."""
    with pytest.raises(Unprocessable) as refused:
        lifecycle.check_new_image(name, region, REGIONS)
    assert refused.value.message == message


def test_unknown_distributions_are_kept_as_unknown() -> None:
    """Any distribution is taken; one that is not known is kept as Unknown."""
    assert lifecycle.distribution("Ubuntu") == "Ubuntu"
    assert lifecycle.distribution("Unkown") == lifecycle.distribution(None) == "Unknown"


@pytest.mark.parametrize("tag", ["", "a b", "x" * 256, "umläut", "a\n", "\u0661"])
def test_bad_tags_are_refused(tag: str) -> None:
    """A tag has letters, digits, colons, dashes and underscores."""
    lifecycle.check_tags(["ok", "a:b-c_9"])
    with pytest.raises(Unprocessable, match="Tag"):
        lifecycle.check_tags([tag])


def test_only_a_running_action_can_be_cancelled() -> None:
    """An action that has ended can't be cancelled any more."""
    lifecycle.check_cancel(RUNNING[0])
    with pytest.raises(Unprocessable, match="already ended"):
        lifecycle.check_cancel(replace(RUNNING[0], status="completed"))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (None, "is empty"),
        ("", "is empty"),
        ("здорово", '"здорово" contains invalid characters'),
        ("a b", '"a b" contains invalid characters'),
        ("a\n", '"a\n" contains invalid characters'),
        ("x" * 256, "is longer than 255 characters"),
    ],
)
def test_a_tag_that_can_not_be_is_refused_in_words_of_its_own(name: str | None, fault: str) -> None:
    """What is wrong with a tag's name is said in DigitalOcean's words."""
    with pytest.raises(TagRefused) as refused:
        lifecycle.check_new_tag(name)

    assert refused.value.message == f'Error validating resource tag: "tag-name {fault}"'


@pytest.mark.parametrize("name", ["a", "A:b-c_9", "x" * 255])
def test_a_tag_that_may_be_is_answered(name: str) -> None:
    """Letters, digits, colons, dashes and underscores make a tag, up to 255 of them."""
    assert lifecycle.check_new_tag(name) == name


@pytest.mark.parametrize("kind", ["backup", "custom", "admin", "base"])
def test_only_a_snapshot_may_become_another_accounts(kind: str) -> None:
    """An image of any other type, or a public one, stays where it is."""
    lifecycle.check_account_transfer(SNAPSHOT)
    with pytest.raises(BadRequest, match="the resource is not a snapshot"):
        lifecycle.check_account_transfer(replace(SNAPSHOT, type=kind))
    with pytest.raises(Forbidden):
        lifecycle.check_account_transfer(replace(SNAPSHOT, public=True))


def test_what_is_in_progress_or_offered_can_not_be_offered() -> None:
    """An image is offered to one account at a time, and neither offered nor taken over while an action works on it."""
    lifecycle.check_offer([], is_offered=False)
    lifecycle.check_accept([])
    with pytest.raises(Unprocessable, match=lifecycle.BUSY["image"]):
        lifecycle.check_offer(RUNNING, is_offered=False)
    with pytest.raises(Unprocessable, match=lifecycle.BUSY["image"]):
        lifecycle.check_offer([], is_offered=True)
    with pytest.raises(Unprocessable, match=lifecycle.BUSY["image"]):
        lifecycle.check_accept(RUNNING)


# ----------------------------------------------------------------------------------------------------------- Droplets

PLACES = {
    "nyc1": Region(name="New York 1", slug="nyc1", available=False),
    "nyc2": Region(name="New York 2", slug="nyc2"),
    "nyc3": Region(name="New York 3", slug="nyc3", features=["backups"]),
    "nyc": Region(name="New York, all of it", slug="nyc"),
}
SMALL = Size(
    slug="small", memory=1024, vcpus=1, disk=25, transfer=1, price_monthly=6, price_hourly=0.009,
    regions=["nyc1", "nyc2", "nyc3"],
)  # fmt: skip
LARGE = replace_struct(SMALL, slug="large", disk=50, regions=["nyc3"])
EVERYWHERE = replace(SNAPSHOT, regions=("nyc1", "nyc2", "nyc3", "nyc"))
DROPLET = DropletRecord(
    id=5, account_id=1, name="web", status="active", region="nyc3", size="small", is_gpu=False, image=SNAPSHOT,
    manifest_id=1, manifest_key="m", virtual_bytes=1, data_bytes=1, fingerprint="f", facts={}, policy=None,
    backup_due_at=None, backup_retry_at=None, created_at=NOW, is_busy=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "image", "size", "home"),
    [
        ("nyc2", EVERYWHERE, SMALL, "nyc2"),
        ("n", EVERYWHERE, SMALL, "nyc2"),
        ("n", EVERYWHERE, LARGE, "nyc3"),
        ("n", replace(EVERYWHERE, regions=("nyc1", "nyc3")), SMALL, "nyc3"),
        (None, EVERYWHERE, SMALL, "nyc2"),
        ("", EVERYWHERE, LARGE, "nyc3"),
        ("nyc2", replace(EVERYWHERE, status="retired"), SMALL, "nyc2"),
    ],
)
def test_a_region_is_chosen_where_all_is_that_is_needed(
    asked: str | None, image: ImageRecord, size: Size, home: str
) -> None:
    """The beginning of a slug means the first region that is open and has the image and the size."""
    assert lifecycle.choose_region(asked, image, size, PLACES) == home


@pytest.mark.parametrize(
    ("asked", "image", "size", "message"),
    [
        ("mars", EVERYWHERE, SMALL, "You specified an invalid region for Droplet creation."),
        ("nyc1", EVERYWHERE, SMALL, "Region is not available"),
        ("nyc2", SNAPSHOT, SMALL, "You specified an invalid image for Droplet creation."),
        ("nyc3", replace(SNAPSHOT, status="NEW"), SMALL, "You specified an invalid image for Droplet creation."),
        ("nyc3", replace(SNAPSHOT, status="deleted"), SMALL, "You specified an invalid image for Droplet creation."),
        ("nyc2", EVERYWHERE, LARGE, "Size is not available in this region"),
        ("nyc3", EVERYWHERE, replace_struct(SMALL, available=False), "Size is not available in this region"),
        # A whole slug means that region alone, though others begin so.
        ("nyc", EVERYWHERE, SMALL, "Size is not available in this region"),
        ("nyc3", replace(SNAPSHOT, min_disk_gib=26), SMALL,
         "The image needs a disk of 26 GB; the size small has one of 25 GB"),
        ("nyc3", replace(SNAPSHOT, virtual_bytes=(25 << 30) + 1), SMALL,
         "The image needs a disk of 26 GB; the size small has one of 25 GB"),
    ],
)  # fmt: skip
def test_a_droplet_against_the_rules_is_refused(asked: str, image: ImageRecord, size: Size, message: str) -> None:
    """What keeps a Droplet from being is said in the contract's words, the region before the image and the size."""
    with pytest.raises(Unprocessable) as refused:
        lifecycle.choose_region(asked, image, size, PLACES)
    assert refused.value.message == message


@pytest.mark.parametrize(("name", "names"), [(None, None), ("", None), ("a", []), (None, ["a", ""]), (None, [""])])
def test_a_droplet_needs_a_name(name: str | None, names: list[str] | None) -> None:
    """Names are given one way or the other, and none of them is blank."""
    assert lifecycle.check_droplet_names("a", None) == ["a"]
    assert lifecycle.check_droplet_names("a", ["b", "c"]) == ["b", "c"]
    with pytest.raises(Unprocessable, match="Name can't be blank"):
        lifecycle.check_droplet_names(name, names)


def test_a_disk_never_shrinks() -> None:
    """A size with a smaller disk than the Droplet has is refused; its size says which it has, or a resize before."""
    kept = replace(DROPLET, size="large", facts={"disk_gib": 25})
    assert lifecycle.disk_gib(DROPLET, SMALL) == lifecycle.disk_gib(kept, LARGE) == 25
    assert lifecycle.disk_gib(kept, None) == 25
    assert lifecycle.disk_gib(DROPLET, None) is None
    lifecycle.check_resize(25, LARGE, "nyc3")
    lifecycle.check_resize(25, SMALL, "nyc3")
    lifecycle.check_resize(None, SMALL, "nyc3")
    with pytest.raises(Unprocessable, match="smaller disk"):
        lifecycle.check_resize(50, SMALL, "nyc3")
    with pytest.raises(Unprocessable, match="Size is not available in this region"):
        lifecycle.check_resize(25, LARGE, "nyc2")


@pytest.mark.parametrize(
    "image",
    [
        None, replace(SNAPSHOT, resource_id=5), replace(SNAPSHOT, type="backup", resource_id=6),
        replace(SNAPSHOT, type="backup"),
    ],
)  # fmt: skip
def test_only_a_backup_of_the_droplet_may_be_restored(image: ImageRecord | None) -> None:
    """A Droplet goes back to nothing but its own backups."""
    lifecycle.check_restore(DROPLET, replace(SNAPSHOT, type="backup", resource_id=5))
    with pytest.raises(Unprocessable, match="The image must be a backup of this Droplet."):
        lifecycle.check_restore(DROPLET, image)


def test_a_rebuild_needs_the_image_where_the_droplet_is() -> None:
    """An image elsewhere, one that is not whole, and one that does not fit are refused."""
    lifecycle.check_rebuild(SNAPSHOT, "nyc3", 25)
    lifecycle.check_rebuild(replace(SNAPSHOT, status="retired", min_disk_gib=99), "nyc3", None)
    for image, region in ((SNAPSHOT, "nyc2"), (replace(SNAPSHOT, status="pending"), "nyc3")):
        with pytest.raises(Unprocessable, match="You specified an invalid image for Droplet rebuild."):
            lifecycle.check_rebuild(image, region, 25)
    with pytest.raises(Unprocessable, match="needs a disk of 26 GB; the Droplet has one of 25 GB"):
        lifecycle.check_rebuild(replace(SNAPSHOT, min_disk_gib=26), "nyc3", 25)


def test_user_data_is_counted_in_bytes() -> None:
    """64 KiB of user data are taken, whatever letters they are."""
    lifecycle.check_user_data(None)
    lifecycle.check_user_data("ü" * (32 << 10))
    with pytest.raises(Unprocessable, match="User data is too long"):
        lifecycle.check_user_data("ü" * (32 << 10) + "x")


def test_backups_are_enabled_where_they_are_offered() -> None:
    """A region without the feature has no backups."""
    lifecycle.check_backups_offered(PLACES["nyc3"])
    for region in (PLACES["nyc2"], None):
        with pytest.raises(Unprocessable, match="Backups are not available in this region"):
            lifecycle.check_backups_offered(region)


@pytest.mark.parametrize("slug", ["debian-12-x64", "a", "0a", "rocky-9.4"])
def test_a_slug_is_a_word_that_is_no_number(slug: str) -> None:
    """A slug that nobody has may be taken; one that somebody has may not."""
    lifecycle.check_slug(slug, None)
    with pytest.raises(Unprocessable, match="Slug is already in use"):
        lifecycle.check_slug(slug, SNAPSHOT)


@pytest.mark.parametrize("slug", ["", "12", "A", "a/b", "a b", ".a", "x" * 129, "a\n"])
def test_a_slug_that_is_no_word_is_refused(slug: str) -> None:
    """All digits is an id, and what can't stand in a path is no slug."""
    with pytest.raises(Unprocessable, match="is invalid"):
        lifecycle.check_slug(slug, None)


@pytest.mark.parametrize(
    ("image", "gib"),
    [
        (SNAPSHOT, 1),
        (replace(SNAPSHOT, virtual_bytes=None), 0),
        (replace(SNAPSHOT, virtual_bytes=1 << 30), 1),
        (replace(SNAPSHOT, virtual_bytes=(1 << 30) + 1), 2),
        (replace(SNAPSHOT, min_disk_gib=25), 25),
    ],
)
def test_an_image_needs_a_disk_as_large_as_it_is(image: ImageRecord, gib: int) -> None:
    """The smallest disk is that of the Droplet that was, or else the image's size, rounded up."""
    assert lifecycle.min_disk_gib(image) == gib
