"""Which moves are legal. Pure: no clock, no disk, no database; it raises or it does not.

The texts are DigitalOcean's where they are known (wire.md, section 11.1) and in the same voice where they are ours.
"""

from __future__ import annotations

import re
from math import ceil
from typing import TYPE_CHECKING

from wherry.errors import BadRequest, Forbidden, TagRefused, Unprocessable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from wherry.models import DropletCreateRequest, Region, Size
    from wherry.server.rules.records import AccountRecord, ActionRecord, DropletRecord, ImageRecord

BUSY = {"image": "Image already has a pending event.", "droplet": "Droplet already has a pending event."}
"""What is answered where an action in progress excludes another one of the same resource."""

NO_ACCESS = "You do not have access for the attempted action."
LONGEST_NAME = 255
_TAG = re.compile(r"[a-zA-Z0-9_\-:]+")
DISTRIBUTIONS = frozenset({
    "Arch Linux", "CentOS", "CoreOS", "Debian", "Fedora", "Fedora Atomic", "FreeBSD", "Gentoo", "openSUSE", "RancherOS",
    "Rocky Linux", "Ubuntu", "Unknown",
})  # fmt: skip
"""Distributions that the API knows; any other is kept as ``Unknown``."""


def check_transfer(image: ImageRecord, region: str | None, regions: Mapping[str, Region]) -> Region:
    """Whether an image may be transferred to a region. Returns the region."""
    _check_writable(image)
    _check_available(image)
    if image.type == "backup":
        raise Unprocessable("Backups can not be transfered to other regions")
    if not region:
        raise Unprocessable("Region can't be blank")
    if (target := regions.get(region)) is None:
        raise Unprocessable("You specified an invalid region for the image transfer.")
    if region in image.regions:
        raise Unprocessable("Image is already available in that region")
    if "image_transfer" not in target.features:
        raise Unprocessable("Image transfer is not available in that region")
    return target


def check_convert(image: ImageRecord, running: Collection[ActionRecord]) -> None:
    """Whether an image may be converted to a snapshot."""
    _check_writable(image)
    _check_available(image)
    if image.type != "backup":
        raise Unprocessable("Only backups can be converted to snapshots")
    _check_idle(running)


def check_update(image: ImageRecord, name: str | None) -> None:
    """Whether an image's facts may be changed."""
    _check_writable(image)
    if name is not None:
        check_name(name)


def check_changes(image: ImageRecord, changes: Mapping[str, str]) -> None:
    """Check that an image of this type may have these facts. Raises Unprocessable; what stays the same may be said."""
    kept = {"distribution": image.distribution, "description": image.description or ""}
    for name, value in kept.items():
        if image.type != "custom" and changes.get(name, value) != value:
            raise Unprocessable(f"{name}: only a custom image's can be changed, and this is a {image.type}")


def check_delete(image: ImageRecord, account_id: int, running: Collection[ActionRecord]) -> None:
    """Whether an image may be deleted. A public one may, by its publisher, once another one has its slug."""
    if image.status != "retired" or image.account_id != account_id:
        _check_writable(image)
    _check_idle(running)


def check_remove_replica(image: ImageRecord, region: str, running: Collection[ActionRecord]) -> None:
    """Whether an image may be removed from one region."""
    _check_writable(image)
    _check_idle(running)
    if region not in image.regions:
        raise Unprocessable("Image is not in that region")
    if len(image.regions) == 1:
        raise Unprocessable("Image can not be removed from its last region; delete the image instead")


def check_new_image(name: str | None, region: str | None, regions: Mapping[str, Region]) -> tuple[str, str]:
    """Whether an image may be made under a name in a region. Returns both."""
    if not name:
        raise Unprocessable("Name can't be blank")
    check_name(name)
    if not region:
        raise Unprocessable("Region can't be blank")
    if region not in regions:
        raise Unprocessable("You specified an invalid region for Image creation.")
    return name, region


def check_name(name: str) -> None:
    """Whether an image may have this name."""
    if not name.strip():
        raise Unprocessable("Name can't be blank")
    if len(name) > LONGEST_NAME:
        raise Unprocessable(f"Name is too long (maximum is {LONGEST_NAME} characters)")


def check_operator(account_id: int, operator: AccountRecord | None) -> None:
    """Whether an account may do what is for all accounts: the first one may, which is the operator's."""
    if operator is None or account_id != operator.id:
        raise Forbidden(NO_ACCESS)


def check_verify(image: ImageRecord, account_id: int, region: str | None) -> None:
    """Whether an account may have an image checked (in one region): its own ones."""
    if image.account_id != account_id:
        raise Forbidden(NO_ACCESS)
    if not image.regions:
        raise Unprocessable("Image is not available")
    if region is not None and region not in image.regions:
        raise Unprocessable("Image is not in that region")


def check_cancel(action: ActionRecord) -> None:
    """Whether an action may be cancelled."""
    if not action.is_running:
        raise Unprocessable("Action has already ended")


def distribution(name: str | None) -> str:
    """The distribution that is kept for the one asked for."""
    return name if name in DISTRIBUTIONS else "Unknown"


def check_tags(tags: Sequence[str]) -> None:
    """Whether these may be tags of something new."""
    for tag in tags:
        if not tag or _fault_of_tag(tag) is not None:
            raise Unprocessable(f"Tag {tag[:40]!r} is invalid: letters, digits, colons, dashes and underscores only")


def check_new_tag(name: str | None) -> str:
    """Whether a tag may have this name. Returns it. Raises TagRefused."""
    if (fault := _fault_of_tag(name or "")) is not None:
        raise TagRefused(f'Error validating resource tag: "tag-name {fault}"')
    return name or ""


def check_tagging(image: ImageRecord) -> None:
    """Whether an image may be tagged, or lose a tag."""
    _check_writable(image)


def check_account_transfer(image: ImageRecord) -> None:
    """Whether an image is of the kind that may become another account's."""
    _check_writable(image)
    if image.type != "snapshot":
        raise BadRequest("the resource is not a snapshot")
    _check_available(image)


def check_offer(running: Collection[ActionRecord], *, is_offered: bool) -> None:
    """Whether an image may be offered to another account now."""
    _check_idle(running)
    if is_offered:
        raise Unprocessable(BUSY["image"])


def check_accept(running: Collection[ActionRecord]) -> None:
    """Whether an image may change its account now."""
    _check_idle(running)


def check_key_name(name: str | None) -> str:
    """Whether an SSH key may have this name. Returns it."""
    check_name(name or "")
    return name or ""


def _check_writable(image: ImageRecord) -> None:
    if image.public:
        raise Forbidden(NO_ACCESS)


def _check_available(image: ImageRecord) -> None:
    if image.status != "available":
        raise Unprocessable("Image is not available")


def _check_idle(running: Collection[ActionRecord]) -> None:
    if any(one.type != "verify" for one in running):  # which changes nothing, and excludes nothing
        raise Unprocessable(BUSY["image"])


def _fault_of_tag(name: str) -> str | None:
    """What is wrong with a tag: it has letters, digits, colons, dashes and underscores, of ASCII, 255 at the most."""
    if not name:
        return "is empty"
    if len(name) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} characters"
    return None if _TAG.fullmatch(name) else f'"{name}" contains invalid characters'


# ----------------------------------------------------------------------------------------------------------- Droplets

LARGEST_USER_DATA = 64 << 10
BULK_ACTIONS = frozenset({
    "power_cycle", "power_on", "power_off", "shutdown", "enable_ipv6", "enable_backups", "disable_backups", "snapshot",
})  # fmt: skip
"""What may be done to all Droplets with a tag at once."""
MOST_AT_ONCE = 200
"""How many Droplets that may be: all of them begin in one turn of the catalog, which others wait for."""

POWER: Mapping[str, Mapping[str, str]] = {
    "power_on": {"active": "Droplet is already powered on."},
    "power_off": {"off": "Droplet is already powered off."},
    "shutdown": {"off": "Droplet is already powered off."},
    "reboot": {"off": "Droplet is currently off. Please power it on to run this event."},
    "power_cycle": {"off": "Droplet is currently off. Please power it on to run this event."},
    "resize": {"active": "Droplet is currently on. Please power it off to run this event."},
}
"""Which actions a Droplet refuses in which status, and in which words; all others it takes on or off.

The texts of resize and power_off are DigitalOcean's; the others are made like them.
"""
IN_EFFECT = frozenset({("power_on", "active"), ("power_off", "off"), ("shutdown", "off")})
"""Where a Droplet already is as the action would leave it."""

NO_ACTION = "The specified action type is not available."
BAD_IMAGE = "You specified an invalid image for Droplet creation."
_HOSTNAME = re.compile(r"[a-zA-Z0-9]?[a-z0-9A-Z.\-]*[a-z0-9A-Z]")


def check_droplet_names(name: str | None, names: Sequence[str] | None) -> list[str]:
    """Whether Droplets may have these names. Returns them."""
    wanted = list(names) if names is not None else [name or ""]
    if not wanted or not all(wanted):
        raise Unprocessable("Name can't be blank")
    for one in wanted:
        check_droplet_name(one)
    return wanted


def check_droplet_name(name: str | None) -> str:
    """Whether a Droplet may have this name. Returns it."""
    if not name:
        raise Unprocessable("Name can't be blank")
    if len(name) > LONGEST_NAME:
        raise Unprocessable(f"Name is too long (maximum is {LONGEST_NAME} characters)")
    if not _HOSTNAME.fullmatch(name):
        raise Unprocessable("Name Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)")
    return name


def check_user_data(user_data: str | None) -> None:
    """Whether this may be given to a Droplet for its first boot."""
    if user_data is not None and len(user_data.encode()) > LARGEST_USER_DATA:
        raise Unprocessable(f"User data is too long (maximum is {LARGEST_USER_DATA} bytes)")


def check_volumes(volumes: Sequence[object] | None) -> None:
    """Check that no volume is to be attached: there are none. Raises Unprocessable."""
    if volumes:  # whatever is in the list: it asks for a volume
        raise Unprocessable("volumes: wherry has no volumes; leave the field out or empty")


def check_networks(request: DropletCreateRequest, default: str) -> None:
    """Check that a Droplet is to be in the network of its account and region, the only one. Raises Unprocessable."""
    if request.vpc_uuid and request.vpc_uuid.lower() != default:
        raise Unprocessable(f"vpc_uuid is {request.vpc_uuid[:40]!r}; wherry has no VPCs but the default {default}")
    if request.ipv6 and request.public_networking is False:
        raise Unprocessable("ipv6 is true and public_networking is false; every IPv6 address is public")


def check_size(slug: str | None, sizes: Mapping[str, Size], purpose: str = "creation") -> Size:
    """Whether there is such a size. Returns it."""
    if not slug or slug not in sizes:
        raise Unprocessable(f"You specified an invalid size for Droplet {purpose}.")
    return sizes[slug]


def choose_region(asked: str | None, image: ImageRecord, size: Size, regions: Mapping[str, Region]) -> str:
    """The region of a new Droplet: the one asked for, or the first that fits the beginning of a slug.

    The image must be there, for creating a Droplet moves no bytes.
    """
    meant = [one for one in regions.values() if one.slug == asked] or [
        one for one in regions.values() if one.slug.startswith(asked or "")
    ]
    if not meant:
        raise Unprocessable("You specified an invalid region for Droplet creation.")
    if not (meant := [one for one in meant if one.available]):
        raise Unprocessable("Region is not available")
    if image.status not in {"available", "retired"} or not (meant := [o for o in meant if o.slug in image.regions]):
        raise Unprocessable(BAD_IMAGE)
    if not size.available or not (meant := [one for one in meant if one.slug in size.regions]):
        raise Unprocessable("Size is not available in this region")
    check_fits(image, size)
    return meant[0].slug


def check_fits(image: ImageRecord, size: Size) -> None:
    """Whether an image's disk fits into the disk that a size brings."""
    if (needed := min_disk_gib(image)) > size.disk:
        raise Unprocessable(f"The image needs a disk of {needed} GB; the size {size.slug} has one of {size.disk} GB")


def check_rebuild(image: ImageRecord, region: str, disk_gib: int | None) -> None:
    """Whether a Droplet in a region, with a disk of this size, may be made anew from an image."""
    if image.status not in {"available", "retired"} or region not in image.regions:
        raise Unprocessable("You specified an invalid image for Droplet rebuild.")
    if disk_gib is not None and (needed := min_disk_gib(image)) > disk_gib:
        raise Unprocessable(f"The image needs a disk of {needed} GB; the Droplet has one of {disk_gib} GB")


def check_power(kind: str, status: str) -> None:
    """Check that a Droplet in this status takes an action. Raises Unprocessable."""
    if (text := POWER.get(kind, {}).get(status)) is not None:
        raise Unprocessable(text)


def check_not_busy(droplet: DropletRecord) -> None:
    """Whether an action of a Droplet could begin now; what excludes them for good is an index."""
    if droplet.is_busy:
        raise Unprocessable(BUSY["droplet"])


def check_bulk(tag: str, count: int) -> None:
    """Check that so many Droplets may get an action at once. Raises Unprocessable."""
    if count > MOST_AT_ONCE:
        raise Unprocessable(
            f"More than {MOST_AT_ONCE} Droplets have the tag {tag}; an action begins for no more at once"
        )


def check_restore(droplet: DropletRecord, image: ImageRecord | None) -> None:
    """Whether a Droplet may go back to an image."""
    if image is None or image.type != "backup" or image.resource_id != droplet.id:
        raise Unprocessable("The image must be a backup of this Droplet.")


def check_resize(disk_gib: int | None, new: Size, region: str) -> None:
    """Whether a Droplet with a disk of this size may have another size. Its disk is never made smaller."""
    if not new.available or region not in new.regions:
        raise Unprocessable("Size is not available in this region")
    if disk_gib is not None and new.disk < disk_gib:
        raise Unprocessable("This size is not available because it has a smaller disk.")


def disk_gib(droplet: DropletRecord, size: Size | None) -> int | None:
    """How large a Droplet's disk may be: as its size says, unless it was resized without the disk.

    None where its size is no longer offered.
    """
    kept: int | None = droplet.facts.get("disk_gib")
    return size.disk if kept is None and size is not None else kept


def check_backups_offered(region: Region | None) -> None:
    """Whether backups may be enabled in a region."""
    if region is None or "backups" not in region.features:
        raise Unprocessable("Backups are not available in this region")


def check_slug(slug: str, holder: ImageRecord | None) -> None:
    """Whether an image may be published under a slug that another one has, or none."""
    if not _SLUG.fullmatch(slug):
        raise Unprocessable(f"Slug {slug[:40]!r} is invalid: small letters, digits, dots and dashes, not digits alone")
    if holder is not None:
        raise Unprocessable("Slug is already in use")


_SLUG = re.compile(r"(?=.*[a-z])[a-z0-9][a-z0-9.-]{0,127}")


def min_disk_gib(image: ImageRecord) -> int:
    """The smallest disk, in GiB, that an image may be put on: its Droplet's, or else its own size."""
    return image.min_disk_gib or ceil((image.virtual_bytes or 0) / (1 << 30))
