from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx2
import pytest
import trustme

from wherry import Client, ConnectionFailed, RequestOptions, errors
from wherry.client import operations
from wherry.client import transport as transport_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = {"id": 7, "name": "web", "type": "snapshot", "regions": ["nyc3"], "created_at": "2026-01-02T03:04:05Z"}
ACTION = {
    "id": 9,
    "status": "in-progress",
    "type": "transfer",
    "region_slug": "ams3",
    "started_at": "2026-01-02T03:04:05Z",
}


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr("wherry.client._sync.transport.time.sleep", waited.append)
    return waited


def client_of(answer: Callable[[httpx2.Request], httpx2.Response]) -> Client:
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return Client("secret", "http://service.test", http=http)


def answering(*replies: httpx2.Response | Exception) -> tuple[Client, list[httpx2.Request]]:
    """A client whose requests are answered one after another, and the requests that it sent."""
    left, sent = list(replies), []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        reply = left.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    return client_of(answer), sent


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequest), (401, errors.Unauthorized), (403, errors.Forbidden), (404, errors.NotFound),
        (405, errors.MethodNotAllowed), (409, errors.Conflict), (416, errors.RangeNotSatisfiable),
        (422, errors.Unprocessable), (429, errors.RateLimited), (500, errors.ServerFault), (501, errors.NotServed),
        (503, errors.Unavailable), (418, errors.RequestError),
    ],
)  # fmt: skip
def test_a_refusal_is_raised_as_the_error_it_was(status: int, kind: type[errors.RequestError]) -> None:
    """Each status comes back as its class, with message, request id and status."""
    body = {"id": "some_id", "message": "No.", "request_id": "r-1"}
    client, _ = answering(*[httpx2.Response(status, json=body)] * 4)
    with pytest.raises(kind) as refused:
        client.gpu_droplets.images.retrieve(7)
    assert type(refused.value) is kind
    assert (refused.value.message, refused.value.request_id, refused.value.status) == ("No.", "r-1", status)


def test_a_body_that_is_no_json_becomes_the_message() -> None:
    """A gateway's HTML is no reason to fail in another way."""
    client, _ = answering(httpx2.Response(404, text="<html>gone</html>", headers={"x-request-id": "r-2"}))
    with pytest.raises(errors.NotFound, match="gone") as refused:
        client.gpu_droplets.images.retrieve(7)
    assert refused.value.request_id == "r-2"


def test_a_reply_of_another_shape_is_named() -> None:
    """A success that is not understood says which call and what was wrong."""
    client, _ = answering(httpx2.Response(200, json={"image": {"id": "seven"}}))
    with pytest.raises(errors.RequestError, match="images.get answered 200"):
        client.gpu_droplets.images.retrieve(7)


def test_what_may_be_repeated_is_sent_again(waits: list[float]) -> None:
    """A read is tried again after a server's fault and after a broken connection, ever later."""
    fault = httpx2.Response(500, json={"id": "server_error", "message": "Oops"})
    client, sent = answering(fault, httpx2.ReadError("cut"), fault, httpx2.Response(200, json={"image": IMAGE}))
    assert client.gpu_droplets.images.retrieve(7).name == "web"
    assert len(sent) == 4
    assert waits[0] < waits[1] < waits[2]


def test_retry_after_is_kept(waits: list[float]) -> None:
    """The service's own word on when to come back is followed, for a POST as well."""
    busy = httpx2.Response(
        429, json={"id": "too_many_requests", "message": "Too many requests"}, headers={"retry-after": "7"}
    )
    client, _ = answering(busy, httpx2.Response(201, json=ACTION))
    assert client.gpu_droplets.images.actions.create(7, type="convert").id == 9
    assert waits == [7.0]


def test_what_must_not_be_repeated_is_not(waits: list[float]) -> None:
    """A rule that was broken stays broken, and x-should-retry is obeyed."""
    for reply in (
        httpx2.Response(422, json={"id": "unprocessable_entity", "message": "No."}),
        httpx2.Response(500, json={"id": "server_error", "message": "No."}, headers={"x-should-retry": "false"}),
        httpx2.Response(501, json={"id": "not_implemented", "message": "No."}),
    ):
        client, sent = answering(reply)
        with pytest.raises(errors.RequestError):
            client.gpu_droplets.images.retrieve(7)
        assert len(sent) == 1
    assert waits == []


def test_an_image_action_may_be_sent_again_because_it_has_a_key() -> None:
    """When the reply to a transfer is lost, the same request goes out with the same key."""
    client, sent = answering(httpx2.ReadError("cut"), httpx2.Response(201, json=ACTION))
    client.gpu_droplets.images.actions.create(7, type="transfer", region="ams3")
    keys = {request.headers["idempotency-key"] for request in sent}
    assert len(sent) == 2
    assert len(keys) == 1


def test_a_post_without_a_key_is_sent_once() -> None:
    """Cancelling is not repeated when its reply is lost."""
    client, sent = answering(httpx2.ReadError("cut"))
    with pytest.raises(ConnectionFailed, match="service.test"):
        client.actions.cancel(9)
    assert len(sent) == 1


@pytest.mark.parametrize("body", [ACTION, {"action": ACTION}, {**ACTION, "action": ACTION}])
def test_all_shapes_of_an_image_action_are_read(body: dict[str, object]) -> None:
    """Bare, wrapped, and both at once: the action comes out the same."""
    action = operations.image_action(httpx2.Response(201, json=body).content)
    assert (action.id, action.status, action.region_slug) == (9, "in-progress", "ams3")


def test_lists_are_gone_through_page_by_page() -> None:
    """All pages come, by their numbers, whatever their links say."""
    links = {"pages": {"next": "http://elsewhere.test/"}}
    pages = [{"images": [{**IMAGE, "id": n}], "links": links, "meta": {"total": 3}} for n in (1, 2, 3)]
    client, sent = answering(*[httpx2.Response(200, json=page) for page in pages])
    assert [image.id for image in client.gpu_droplets.images.list(private=True)] == [1, 2, 3]
    assert [request.url.params["page"] for request in sent] == ["1", "2", "3"]
    assert {request.url.host for request in sent} == {"service.test"}
    assert sent[0].url.params["private"] == "true"


def test_options_of_a_call_reach_its_request() -> None:
    """Headers, timeout and retries differ where they are given."""
    client, sent = answering(httpx2.Response(500, json={"id": "x", "message": "No."}))
    options = RequestOptions(timeout=1.5, headers={"x-trace": "t"}, retries=0)
    with pytest.raises(errors.ServerFault):
        client.regions.list(options=options).all()
    assert sent[0].headers["x-trace"] == "t"
    assert sent[0].extensions["timeout"]["read"] == 1.5


def test_token_and_url_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherry's variables come first, then DigitalOcean's; a base that ends in /v2 is understood."""
    monkeypatch.setenv("DIGITALOCEAN_ACCESS_TOKEN", "theirs")
    monkeypatch.setenv("DIGITALOCEAN_API_URL", "https://theirs.test/v2/")
    found = transport_module.Connection.find(None, None, 60, 3)
    assert (found.token, found.base_url) == ("theirs", "https://theirs.test")
    monkeypatch.setenv("WHERRY_TOKEN", "ours")
    monkeypatch.setenv("WHERRY_URL", "http://ours.test")
    found = transport_module.Connection.find(None, None, 60, 3)
    assert (found.token, found.base_url) == ("ours", "http://ours.test")


def test_without_a_token_nothing_is_sent() -> None:
    """A missing token is said at once, and where to put one."""
    with pytest.raises(errors.Unauthorized, match="WHERRY_TOKEN"):
        Client(base_url="http://service.test")


def test_a_base_url_that_is_none_is_refused() -> None:
    """A URL without a scheme is said to be wrong before anything is sent."""
    with pytest.raises(errors.BadRequest, match="http://"):
        Client("secret", "localhost:8080")


@pytest.mark.parametrize(
    ("kind", "region"), [("transfer", None), ("transfer", ""), ("convert", "ams3"), ("resize", None)]
)
def test_a_wrong_action_is_refused_before_it_is_sent(kind: str, region: str | None) -> None:
    """A transfer without a region is an error of the caller's, at run time too."""
    client, sent = answering()
    with pytest.raises(TypeError):
        client.gpu_droplets.images.actions.create(7, type=kind, region=region)  # type: ignore[call-overload]  # on purpose
    assert sent == []


def test_a_certificate_that_is_not_trusted_is_refused_once(waits: list[float]) -> None:
    """Waiting makes no certificate better: the error comes at once, and says where to name a CA."""
    refused = httpx2.ConnectError("refused")
    refused.__cause__ = ssl.SSLCertVerificationError()
    refused.__cause__.verify_message = "self-signed certificate"
    client, sent = answering(refused)

    with pytest.raises(errors.CertificateNotTrusted, match="service.test is not trusted: self-signed") as raised:
        client.gpu_droplets.images.retrieve(7)

    assert "--ca-file" in raised.value.hint
    assert not raised.value.retryable
    assert (len(sent), waits) == (1, [])


def test_the_ca_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WHERRY_CA_FILE is trusted alone; without it, what httpx2 trusts is."""
    assert transport_module.Connection.find("t", None, 60, 3).verify is True
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("WHERRY_CA_FILE", str(tmp_path / "ca.pem"))

    verify = transport_module.Connection.find("t", None, 60, 3).verify

    assert isinstance(verify, ssl.SSLContext)
    assert verify.cert_store_stats() == {"x509": 1, "x509_ca": 1, "crl": 0}


def test_a_ca_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """A file that is missing, or holds something else, is named before anything is sent."""
    with pytest.raises(errors.BadRequest, match="none.pem can't be read: No such file"):
        Client("secret", ca_file=tmp_path / "none.pem")
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(errors.BadRequest, match="text.pem holds no certificate in PEM"):
        Client("secret", ca_file=tmp_path / "text.pem")


@pytest.mark.parametrize("left", [0, -1])
def test_no_attempt_follows_when_none_is_left(left: int) -> None:
    """Also if more were made than there were: an attempt that brought something may be one too many."""
    request = operations.get_image(7)
    with pytest.raises(ConnectionFailed):
        transport_module.delay_after_break(request, httpx2.ConnectError("refused"), left)
    with pytest.raises(errors.Unavailable):
        transport_module.delay_after_refusal(request, httpx2.Response(503, json={}), left)
