"""What a running service says to whoever watches over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from tests.contract.api.conftest import Api

    from wherry.testing.service import ServiceProcess


def shown(service: ServiceProcess, name: str, **labels: str) -> float:
    """What a metric of the service shows; 0 if it was never moved."""
    text = httpx2.get(f"{service.url}/metrics").raise_for_status().text
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    return sum(one.value for one in samples if one.name == name and one.labels == labels)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_a_running_service_is_well(service: ServiceProcess, path: str) -> None:
    """A service that was started answers for its health without a token, also to HEAD."""
    assert httpx2.get(service.url + path).status_code == 200
    assert httpx2.head(service.url + path).status_code == 200


def test_a_request_is_counted(service: ServiceProcess, api: Api) -> None:
    """A call moves its counter and its durations by one."""
    labels = {"method": "GET", "call": "images.list"}
    before = shown(service, "wherry_http_requests_total", **labels, status="200")
    timed = shown(service, "wherry_http_request_duration_seconds_count", **labels)
    assert api.get("/v2/images").status_code == 200
    assert shown(service, "wherry_http_requests_total", **labels, status="200") == before + 1
    assert shown(service, "wherry_http_request_duration_seconds_count", **labels) == timed + 1


def test_an_export_is_counted(service: ServiceProcess, api: Api) -> None:
    """Blocks that an export reads are counted for the region that they are read from."""
    image = api.make(content=b"a disk" * 300_000)
    before = shown(service, "wherry_blocks_moved_total", region="nyc3", kind="exported")
    assert api.get(f"/v2/images/{image['id']}/export").status_code == 200
    assert shown(service, "wherry_blocks_moved_total", region="nyc3", kind="exported") == before + 2
