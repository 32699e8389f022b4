"""What the catalog keeps of accounts: their keys, their tags, and what they offer each other."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from wherry.errors import NotFound, Unprocessable
from wherry.server.catalog import tables as t

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.catalog import Catalog, Writer

NOW = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
TOO_LARGE = (2**53, 2**63, 2**64, 10**30)
OWNER, OTHER = 1, 2


@pytest.fixture
def catalog(open_catalog: Callable[..., Catalog]) -> Catalog:
    """An empty catalog with two accounts, whose ids are 1 and 2."""
    catalog = open_catalog(lambda: NOW)
    with catalog.begin() as tx:
        tx.add_account("uuid-1", "Owner@example.invalid", "Owner")
        tx.add_account("uuid-2", "other@example.invalid", "Other")
    return catalog


def add_image(tx: Writer, account_id: int = OWNER, **values: object) -> int:
    image = tx.add_image(account_id, "web", "snapshot", status="available", distribution="Debian", **values)  # type: ignore[arg-type]  # passed on
    return image.id


# -------------------------------------------------------------------------------------------------------- accounts


def test_an_account_is_found_by_its_address_in_any_case_or_its_uuid(catalog: Catalog) -> None:
    """An address finds its account however it is spelled, a UUID as it is, and what is not given finds none."""
    with catalog.read() as reader:
        for found in (reader.find_account(email="OWNER@EXAMPLE.invalid"), reader.find_account(uuid="uuid-1")):
            assert found is not None
            assert found.id == OWNER
        for nobody in ({}, {"email": ""}, {"uuid": ""}, {"email": "uuid-1"}, {"uuid": "UUID-1"}, {"email": "%"}):
            assert reader.find_account(**nobody) is None


def test_an_address_has_one_account(catalog: Catalog) -> None:
    """A second account of the same address is refused, however it is spelled."""
    with catalog.begin() as tx, pytest.raises(Unprocessable, match="account of owner@example"):
        tx.add_account("uuid-3", "owner@example.INVALID", "Again")


# ------------------------------------------------------------------------------------------------------------ keys


def test_a_key_is_read_by_its_id_or_fingerprint_and_by_its_account_alone(catalog: Catalog) -> None:
    """A key is its account's; to any other it is not there, and nor are numbers that no key can have."""
    with catalog.begin() as tx:
        key = tx.add_ssh_key(OWNER, "mine", "ssh-ed25519 AAAA", "aa:bb")
        for word in (key.id, str(key.id), "aa:bb", "AA:BB"):
            assert tx.ssh_key(OWNER, word) == key
            with pytest.raises(NotFound):
                tx.ssh_key(OTHER, word)
        for word in (*TOO_LARGE, -key.id, "", "aa:cc", f" {key.id}", "\u0661"):
            with pytest.raises(NotFound):
                tx.ssh_key(OWNER, word)


def test_an_account_has_a_key_once(catalog: Catalog) -> None:
    """The same key again is refused, and what else the transaction did stays; another account may have it too."""
    with catalog.begin() as tx:
        tx.add_ssh_key(OWNER, "mine", "ssh-ed25519 AAAA", "aa:bb")
        with pytest.raises(Unprocessable, match="SSH Key is already in use on your account"):
            tx.add_ssh_key(OWNER, "again", "ssh-ed25519 AAAA", "aa:bb")
        tx.add_ssh_key(OTHER, "theirs", "ssh-ed25519 AAAA", "aa:bb")
    with catalog.read() as reader:
        assert [one.name for one in reader.ssh_keys(OWNER, limit=9, offset=0)[0]] == ["mine"]
        assert reader.ssh_keys(OTHER, limit=9, offset=0)[1] == 1


def test_keys_are_renamed_and_forgotten_one_by_one(catalog: Catalog) -> None:
    """A change of one key leaves the others as they are; the newest stands first."""
    with catalog.begin() as tx:
        first, second, third = (tx.add_ssh_key(OWNER, f"{n}", f"key {n}", f"{n}") for n in "abc")
        tx.rename_ssh_key(second.id, "renamed")
        tx.remove_ssh_key(third.id)
        keys, total = tx.ssh_keys(OWNER, limit=1, offset=1)
        assert (keys, total) == ([first], 2)
        assert tx.ssh_key(OWNER, second.id).name == "renamed"


# ------------------------------------------------------------------------------------------------------------ tags


def test_a_tags_first_spelling_counts(catalog: Catalog) -> None:
    """A tag is added once whatever its case, read as it was first spelled alone, and found in any case."""
    with catalog.begin() as tx:
        tag_id = tx.add_tag(OWNER, "PROD")
        image_id = add_image(tx, tags=["prod", "Prod"])
        assert tx.add_tag(OWNER, "prod") == tag_id
        assert tx.tag(OWNER, "PROD").counts == {"image": 1}
        assert tx.image(image_id).tags == ("PROD",)
        assert tx.tagged(OWNER, "image", "pRoD") == [image_id]
        assert [one.id for one in tx.images(OWNER, tag="prod")[0]] == [image_id]
        with pytest.raises(NotFound):
            tx.tag(OWNER, "prod")


def test_each_account_has_its_own_tags(catalog: Catalog) -> None:
    """Two accounts may have a tag of one name; what one does to it changes nothing for the other."""
    with catalog.begin() as tx:
        mine, theirs = add_image(tx, tags=["web"]), add_image(tx, OTHER, tags=["WEB"])
        tx.remove_tag(tx.tag(OWNER, "web").id)
        assert tx.image(mine).tags == ()
        assert tx.image(theirs).tags == ("WEB",)
        assert tx.tagged(OWNER, "image", "web") == []
        assert tx.tags(OWNER, limit=9, offset=0) == ([], 0)


def test_a_tag_counts_what_has_it_and_names_the_last(catalog: Catalog) -> None:
    """A tag tells for each kind how many have it and which got it last; the very last kind stands at the end."""
    with catalog.begin() as tx:
        first, second = add_image(tx), add_image(tx)
        tag_id = tx.add_tag(OWNER, "web")
        for kind, resource_id in (("image", second), ("droplet", 7), ("image", first), ("image", second)):
            tx.assign_tag(tag_id, kind, [resource_id])  # type: ignore[arg-type]  # mypy sees any str
        tag = tx.tag(OWNER, "web")
        assert (tag.counts, list(tag.last.items())) == ({"image": 2, "droplet": 1}, [("droplet", 7), ("image", first)])
        tx.unassign_tag(tag_id, "image", [first])
        tx.unassign_tag(tag_id, "image", [first])
        assert list(tx.tag(OWNER, "web").last.items()) == [("image", second), ("droplet", 7)]
        tx.forget_images([second])
        assert tx.tag(OWNER, "web").counts == {"droplet": 1}


def test_tags_are_listed_by_their_names_in_any_case(catalog: Catalog) -> None:
    """A page of tags is a window of all, in the order of the alphabet."""
    with catalog.begin() as tx:
        for name in ("c", "B", "a", "D"):
            tx.add_tag(OWNER, name)
        tags, total = tx.tags(OWNER, limit=2, offset=1)
        assert ([one.name for one in tags], total) == (["B", "c"], 4)


def test_a_tag_may_be_on_more_resources_than_a_statement_has_room_for(catalog: Catalog) -> None:
    """Listing by a tag works whatever number has it."""
    with catalog.begin() as tx:
        image_id = add_image(tx)
        tag_id = tx.add_tag(OWNER, "web")
        ids = range(image_id, image_id + 40_000)
        tx._insert_all(t.taggings, [{"tag_id": tag_id, "resource_type": "image", "resource_id": each} for each in ids])
        assert tx.images(OWNER, tag="web")[1] == 1
        assert tx.droplets(OWNER, tag="web")[1] == 0


# ---------------------------------------------------------------------------------------------------------- offers


def test_an_image_is_offered_to_one_account_at_a_time(catalog: Catalog) -> None:
    """A second offer of an image is refused until the first one has ended; each has a number of its own."""
    with catalog.begin() as tx:
        image_id = add_image(tx)
        first = tx.offer_image(image_id, OWNER, OTHER)
        assert tx.is_offered(image_id)
        with pytest.raises(Unprocessable, match="pending event"):
            tx.offer_image(image_id, OWNER, OTHER)
        tx.end_offer(first, "declined")
        assert not tx.is_offered(image_id)
        second = tx.offer_image(image_id, OWNER, OTHER)
        assert second > first
        assert [tx.account_transfer(one, image_id).status for one in (first, second)] == ["declined", "pending"]


def test_an_offer_ends_once(catalog: Catalog) -> None:
    """However an offer ended first, it stays so."""
    with catalog.begin() as tx:
        image_id = add_image(tx)
        number = tx.offer_image(image_id, OWNER, OTHER)
        tx.end_offer(number, "cancelled")
        with pytest.raises(NotFound):
            tx.end_offer(number, "accepted")
        assert tx.account_transfer(number, image_id).status == "cancelled"


def test_an_offer_is_of_its_image_alone(catalog: Catalog) -> None:
    """An offer's number names nothing together with another image, and no number is too large to be asked for."""
    with catalog.begin() as tx:
        image_id, other_image = add_image(tx), add_image(tx)
        number = tx.offer_image(image_id, OWNER, OTHER)
        for wrong in ((number, other_image), *((large, image_id) for large in TOO_LARGE), (-number, image_id)):
            with pytest.raises(NotFound):
                tx.account_transfer(*wrong)


def test_deleting_an_image_ends_its_offer(catalog: Catalog) -> None:
    """An image that is gone is no longer on offer."""
    with catalog.begin() as tx:
        image_id = add_image(tx)
        number = tx.offer_image(image_id, OWNER, OTHER)
        tx.forget_images([image_id])
        assert tx.account_transfer(number, image_id).status == "cancelled"


def test_an_image_that_was_given_leaves_what_is_the_senders(catalog: Catalog) -> None:
    """An image in its new account has no tags and no Droplet any more, and the old one finds it nowhere."""
    with catalog.begin() as tx:
        image_id = add_image(tx, tags=["web"])
        tx.update_image(image_id, resource_id=500_000_001)
        tx.give_image(image_id, OTHER)
        given = tx.image(image_id, OTHER)
        assert (given.account_id, given.tags, given.resource_id) == (OTHER, (), None)
        assert tx.images(OWNER) == ([], 0)
        assert tx.images_of([500_000_001], "snapshot") == {}
        assert tx.tag(OWNER, "web").counts == {}
        with pytest.raises(NotFound):
            tx.image(image_id, OWNER)
