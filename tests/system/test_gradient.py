"""DigitalOcean's retired SDK, ``gradient`` 3.11.0, works unchanged against a running service."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import gradient
import httpx
import pytest

from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=[False, True], ids=["lenient", "strict"])
def sdk(request: pytest.FixtureRequest, service: ServiceProcess) -> Iterator[gradient.Gradient]:
    """The SDK, as it is and with strict validation of replies."""
    with gradient.Gradient(access_token=TOKEN, base_url=service.url, _strict_response_validation=request.param) as sdk:
        yield sdk


@pytest.fixture
def make(service: ServiceProcess) -> Callable[[str], int]:
    """Makes an image of a type and answers its id."""

    def make(kind: str) -> int:
        asked = {"type": kind, "name": kind, "region": "nyc3", "distribution": "Debian"}
        reply = httpx.post(
            f"{service.url}/_wherry/images", params=asked, content=b"disk", headers={"authorization": f"Bearer {TOKEN}"}
        )
        made: int = reply.raise_for_status().json()["image"]["id"]
        return made

    return make


def test_it_transfers(sdk: gradient.Gradient, make: Callable[[str], int]) -> None:
    """A transfer is created, retrieved and listed, with its values decoded."""
    image_id = make("snapshot")
    actions = sdk.gpu_droplets.images.actions

    created = actions.create(image_id, type="transfer", region="ams3")
    retrieved = actions.retrieve(created.id or 0, image_id=image_id)
    listed = actions.list(image_id).actions or []

    assert isinstance(created.id, int)
    assert (created.status, created.type, created.resource_type) == ("in-progress", "transfer", "image")
    assert (created.resource_id, created.region_slug, created.completed_at) == (image_id, "ams3", None)
    assert created.region is not None
    assert (created.region.slug, created.region.name) == ("ams3", "Amsterdam 3")
    assert isinstance(created.started_at, datetime)
    assert created.started_at.tzinfo == UTC
    assert retrieved.id == listed[0].id == created.id


def test_it_converts(sdk: gradient.Gradient, make: Callable[[str], int]) -> None:
    """A backup is converted, and is a snapshot then."""
    image_id = make("backup")

    created = sdk.gpu_droplets.images.actions.create(image_id, type="convert")
    retrieved = sdk.gpu_droplets.images.actions.retrieve(created.id or 0, image_id=image_id)

    assert created.type == "convert"
    assert (retrieved.status, retrieved.region_slug) == ("completed", "nyc3")
    image = sdk.gpu_droplets.images.retrieve(image_id).image
    assert (image.id, image.type, image.regions) == (image_id, "snapshot", ["nyc3"])


def test_it_reads_and_changes_images(sdk: gradient.Gradient, make: Callable[[str], int]) -> None:
    """Images are listed, retrieved, updated and deleted."""
    image_id = make("custom")
    images = sdk.gpu_droplets.images

    listed = images.list(private=True)
    updated = images.update(image_id, name="renamed", description="by the SDK").image

    assert [image.id for image in listed.images] == [image_id]
    assert listed.meta.total == 1
    assert (updated.name, updated.description, updated.distribution) == ("renamed", "by the SDK", "Debian")
    images.delete(image_id)
    with pytest.raises(gradient.NotFoundError):
        images.retrieve(image_id)


def test_it_works_asynchronously(service: ServiceProcess, make: Callable[[str], int]) -> None:
    """The asynchronous client does the same."""
    image_id = make("backup")

    async def run() -> tuple[Any, Any, Any]:
        async with gradient.AsyncGradient(access_token=TOKEN, base_url=service.url) as sdk:
            actions = sdk.gpu_droplets.images.actions
            created = await actions.create(image_id, type="convert")
            retrieved = await actions.retrieve(created.id or 0, image_id=image_id)
            return created, retrieved, await actions.list(image_id)

    created, retrieved, listed = asyncio.run(run())

    assert (created.id, created.status) == (retrieved.id, "in-progress")
    assert (retrieved.status, retrieved.type) == ("completed", "convert")
    assert listed.actions[0].id == created.id


@pytest.mark.parametrize(
    ("token", "image", "error"),
    [
        (TOKEN, "snapshot", gradient.UnprocessableEntityError),
        (TOKEN, None, gradient.NotFoundError),
        ("dop_v1_unknown", None, gradient.AuthenticationError),
    ],
)
def test_it_raises_its_own_errors_and_sends_once(
    service: ServiceProcess, make: Callable[[str], int], token: str, image: str | None,
    error: type[gradient.APIStatusError],
) -> None:  # fmt: skip
    """A refusal is raised as the SDK's class for it, and is not sent again."""
    sent: list[httpx.Request] = []
    image_id = make(image) if image else 1
    counting = httpx.Client(event_hooks={"request": [sent.append]})

    with (
        gradient.Gradient(access_token=token, base_url=service.url, http_client=counting) as sdk,
        pytest.raises(error) as raised,
    ):
        sdk.gpu_droplets.images.actions.create(image_id, type="convert")

    assert len(sent) == 1
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["request_id"] == raised.value.response.headers["x-request-id"]
