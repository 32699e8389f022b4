from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from wherry.errors import BadRequest, Forbidden, TagRefused, Unprocessable
from wherry.models import Region
from wherry.server import lifecycle
from wherry.server.catalog.records import ActionRecord, ImageRecord

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
        lambda image: lifecycle.check_delete(image, []),
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
    lifecycle.check_delete(SNAPSHOT, [])
    with pytest.raises(Unprocessable, match="Image already has a pending event."):
        lifecycle.check_delete(SNAPSHOT, RUNNING)


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
    with pytest.raises(Unprocessable, match=lifecycle.BUSY):
        lifecycle.check_offer(RUNNING, is_offered=False)
    with pytest.raises(Unprocessable, match=lifecycle.BUSY):
        lifecycle.check_offer([], is_offered=True)
    with pytest.raises(Unprocessable, match=lifecycle.BUSY):
        lifecycle.check_accept(RUNNING)
