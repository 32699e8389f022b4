"""The health of an image on the wire: checks that are asked for, damage that is met, and what is said of it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.api.conftest import Api

MIB = 1 << 20
DISK = random.Random(23).randbytes(4 * MIB)
UNCHECKED: dict[str, Any] = {"state": "unchecked", "checked_at": None, "damaged": []}


def stored(service: ServiceProcess, kind: str, region: str = "nyc3") -> set[Path]:
    """The files of a region's packs or manifests."""
    return {one for one in (service.data / "regions" / region / kind).rglob("*") if one.is_file()}


def spoil(file: Path, at: int) -> None:
    """Flip a bit of a file."""
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


def made(api: Api, service: ServiceProcess, *regions: str) -> tuple[int, Path]:
    """An image in nyc3 and in further regions, and its pack in nyc3."""
    return made_of(api, service, DISK, *regions)


def made_of(api: Api, service: ServiceProcess, disk: bytes, *regions: str) -> tuple[int, Path]:
    """The same, of a disk."""
    before = stored(service, "packs")
    image = api.make(content=disk)["id"]
    for region in regions:
        assert api.ended(api.act(image, type="transfer", region=region).json()["id"])["status"] == "completed"
    (pack,) = stored(service, "packs") - before
    return image, pack


def health(api: Api, image: int) -> Any:
    """An image's health."""
    return api.get(f"/v2/images/{image}").json()["image"]["health"]


def verified(api: Api, image: int, **body: str) -> Any:
    """Have an image checked, wait for that and for what it begins, and answer its health."""
    begun = api.post(f"/v2/images/{image}/verify", json=body)
    assert begun.status_code == 201, begun.text
    assert api.ended(begun.json()["action"]["id"])["status"] == "completed"
    return settled(api, image)


def settled(api: Api, image: int) -> Any:
    """An image's health, once a heal has looked."""
    found = api.waited(
        f"/v2/images/{image}", lambda reply: all(one["count"] for one in reply["image"]["health"]["damaged"])
    )
    return found["image"]["health"]


def test_an_image_is_unchecked_until_all_of_it_was_checked(api: Api, service: ServiceProcess) -> None:
    """A check of one region says nothing of the others; lists and other replies have no health."""
    image, _ = made(api, service, "ams3")
    assert health(api, image) == UNCHECKED
    assert verified(api, image, region="nyc3") == UNCHECKED
    found = verified(api, image)
    assert (found["state"], found["damaged"]) == ("whole", [])
    assert found["checked_at"].endswith("Z")
    listed = api.get("/v2/images", params={"private": "true"}).json()["images"]
    assert all("health" not in one for one in listed)
    actions = api.get(f"/v2/images/{image}/actions").json()["actions"]
    assert [one["type"] for one in actions[:2]] == ["verify", "verify"]


def test_damage_is_healed_from_another_region(api: Api, service: ServiceProcess) -> None:
    """A pack with a bad block, and a manifest that is missing."""
    manifests = stored(service, "manifests")
    image, pack = made(api, service, "ams3")
    (manifest,) = stored(service, "manifests") - manifests
    spoil(pack, MIB)
    manifest.unlink()
    assert verified(api, image)["damaged"] == []
    assert api.get(f"/v2/images/{image}/export", params={"region": "nyc3"}).content == DISK
    assert pack.exists()


def test_an_image_says_which_of_its_blocks_are_lost(api: Api, service: ServiceProcess) -> None:
    """By their numbers and as ranges of bytes; the others can be read."""
    image, pack = made(api, service)
    spoil(pack, 80 + MIB // 2)
    spoil(pack, 2 * (80 + MIB) - 1)
    found = verified(api, image)
    assert (found["state"], found["checked_at"]) == ("damaged", None)  # what was saved lies in a new pack
    assert found["damaged"] == [
        {"region": "nyc3", "blocks": [0, 1], "count": 2, "ranges": [{"start": 0, "end": 2 * MIB}]}
    ]
    good = api.get(f"/v2/images/{image}/export", headers={"range": f"bytes={3 * MIB}-"})
    assert good.content == DISK[3 * MIB :]


def test_an_export_of_what_is_lost_is_refused_before_it_begins(api: Api, service: ServiceProcess) -> None:
    """In a sentence that names the block; where another region has it, that is exported, and later what was lost."""
    image, pack = made(api, service)
    spoil(pack, 80 + MIB // 2)
    verified(api, image)
    for asked in ({}, {"range": "bytes=1000-1001"}):
        reply = api.get(f"/v2/images/{image}/export", headers=asked)
        assert (reply.status_code, reply.json()["id"]) == (422, "unprocessable_entity")
        assert "Block 0 of the disk (bytes 0 to 1048575) is lost in nyc3" in reply.json()["message"]
    good = api.get(f"/v2/images/{image}/export", headers={"range": f"bytes={MIB}-"})
    assert good.content == DISK[MIB:]
    made(api, service)  # the same disk: what was lost is there again, and the next export has it
    assert api.get(f"/v2/images/{image}/export").content == DISK


def test_an_export_that_breaks_off_is_told_in_a_line(api: Api, service: ServiceProcess) -> None:
    """A block is bad of which nobody knew, and there is no other copy: the connection ends, and the log says why."""
    image, pack = made(api, service)
    spoil(pack, 80 + MIB // 2)
    begun = len(service.said())
    with pytest.raises(httpx2.RemoteProtocolError):
        api.get(f"/v2/images/{image}/export")
    said = service.said()[begun:]
    assert f"export.broken_off path=/v2/images/{image}/export code=block_corrupt" in said
    assert "Traceback" not in said


def test_an_export_that_meets_a_bad_block_goes_on_and_has_it_healed(api: Api, service: ServiceProcess) -> None:
    """Its bytes are right, and afterwards those of the region are."""
    image, pack = made(api, service, "ams3")
    spoil(pack, 80 + 7)
    assert api.get(f"/v2/images/{image}/export", params={"region": "nyc3"}).content == DISK
    assert settled(api, image) == UNCHECKED
    pack.unlink()
    assert api.get(f"/v2/images/{image}/export", params={"region": "nyc3"}).content == DISK


def test_blocks_are_read_as_exports_are(api: Api, service: ServiceProcess) -> None:
    """A bad block comes from another region and is healed; one that is lost is refused, and the others come."""
    image, pack = made(api, service, "ams3")
    path, asked = f"/v2/images/{image}/blocks/", {"region": "nyc3"}
    good = api.get(f"{path}0-3", params=asked).content
    spoil(pack, 80 + 7)
    assert api.get(f"{path}0-3", params=asked).content == good
    assert settled(api, image) == UNCHECKED
    assert api.get(f"{path}0-3", params=asked).content == good

    lost, pack = made_of(api, service, DISK[::-1])
    spoil(pack, 80 + MIB // 2)
    verified(api, lost)
    reply = api.get(f"/v2/images/{lost}/blocks/0-3")
    assert reply.status_code == 422
    assert "Block 0 of the disk (bytes 0 to 1048575) is lost in nyc3" in reply.json()["message"]
    assert api.get(f"/v2/images/{lost}/blocks/1-3").status_code == 200


def test_an_export_takes_another_region_where_the_first_has_no_manifest(api: Api, service: ServiceProcess) -> None:
    """Unless it was to be that one: then it says what is wrong, and it is healed."""
    manifests = stored(service, "manifests")
    image, _ = made(api, service, "ams3")
    (manifest,) = stored(service, "manifests") - manifests
    manifest.unlink()
    assert api.get(f"/v2/images/{image}/export").content == DISK
    settled(api, image)
    reply = api.get(f"/v2/images/{image}/export", params={"region": "nyc3"})
    assert reply.content == DISK


def test_an_export_takes_another_region_where_a_store_can_t_be_read(api: Api, service: ServiceProcess) -> None:
    """Unless it was to be that one: then it says that it is away."""
    manifests = stored(service, "manifests")
    image, _ = made(api, service, "ams3")
    (manifest,) = stored(service, "manifests") - manifests
    aside = manifest.rename(service.data / "aside")
    manifest.mkdir()  # what is no file can't be read, whatever the reader may do
    elsewhere = api.get(f"/v2/images/{image}/export")
    reply = api.get(f"/v2/images/{image}/export", params={"region": "nyc3"})
    manifest.rmdir()
    aside.rename(manifest)
    assert elsewhere.content == DISK
    assert (reply.status_code, reply.json()["id"]) == (503, "service_unavailable")


def test_a_disk_that_is_exported_is_healed_from_an_image(api: Api, service: ServiceProcess) -> None:
    """A Droplet's disk is what its image is, which is in another region too."""
    image, pack = made(api, service, "ams3")
    droplet = api.droplet(image)["id"]
    spoil(pack, 80 + 7)
    assert api.get(f"/v2/droplets/{droplet}/disk").content == DISK


def test_a_region_is_checked_for_the_operator_alone(api: Api, other: Api, service: ServiceProcess) -> None:
    """It is an action of that region; another account is refused, and so is a region that there is not."""
    image, pack = made(api, service, "ams3")
    spoil(pack, 80 + 7)
    begun = api.post("/v2/scrub", json={"region": "nyc3"})
    assert begun.status_code == 201, begun.text
    done = api.ended(begun.json()["action"]["id"])
    assert (done["status"], done["type"], done["region_slug"]) == ("completed", "scrub", "nyc3")
    assert settled(api, image)["damaged"] == []
    assert api.get(f"/v2/images/{image}/export", params={"region": "nyc3"}).content == DISK
    assert api.post("/v2/scrub", json={"region": "mars1"}).status_code == 422
    assert api.post("/v2/scrub", json={}).status_code == 422
    assert other.post("/v2/scrub", json={"region": "nyc3"}).status_code == 403


def test_only_ones_own_images_may_be_checked(api: Api, other: Api, service: ServiceProcess) -> None:
    """Another account's can't be seen; where the image is not, nothing can be checked."""
    image, _ = made(api, service)
    assert other.post(f"/v2/images/{image}/verify").status_code == 404
    assert other.post("/v2/images/1/verify").status_code in {403, 404}
    refused = api.post(f"/v2/images/{image}/verify", json={"region": "ams3"})
    assert (refused.status_code, refused.json()["message"]) == (422, "Image is not in that region")


def test_the_stores_are_checked_as_time_goes_by(tmp_path: Path, connect: Callable[[str], Api]) -> None:
    """When the clock has moved on by thirty days, everything was checked, and what was damaged is healed."""
    arguments = ("--test-mode", "--regions", "nyc3,ams3", "--no-public-images")
    with ServiceProcess(tmp_path / "data", arguments=arguments) as service:
        api = connect(service.url)
        image, pack = made(api, service, "ams3")
        spoil(pack, 80 + 7)
        api.advance(days=30)
        assert health(api, image)["damaged"] == []
        api.advance(hours=2)
        assert health(api, image)["state"] == "whole"


def test_an_image_may_be_deleted_while_it_is_checked(api: Api, service: ServiceProcess) -> None:
    """A check changes nothing, and keeps nobody from anything."""
    image, _ = made(api, service)
    assert api.post(f"/v2/images/{image}/verify").status_code == 201
    assert api.delete(f"/v2/images/{image}").status_code == 204
