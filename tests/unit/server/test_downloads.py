"""What an import does about each way in which a server may behave; docs/guide/imports.md has the same table."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import far_server

from wherry.errors import (
    ActionCancelled,
    ChecksumWrong,
    SourceError,
    SourceInterrupted,
    SourceRefused,
    SourceTooSlow,
    SourceUnavailable,
    Unprocessable,
)
from wherry.server.disks.sources import Pace, Sources, Target
from wherry.server.settings import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
BODY = far_server.BODY
PACE = Pace(answer_s=0.5, silence_s=0.5, window_s=0.3)

READ = None
TABLE: dict[str, type[SourceError] | None] = {
    "/whole": READ, "/signed": READ, "/my%20disk": READ, "/disk-%C3%BC": READ, "/my disk": READ, "/disk-ü": READ,
    "/to-a-space": READ, "/to-an-umlaut": READ, "/relative": READ, "/loop": SourceRefused, "/to-no-port": SourceRefused,
    "/to-no-host": SourceRefused, "/to-ftp": SourceRefused, "/guarded": SourceRefused, "/to-guarded": SourceRefused,
    "/chunked": READ, "/chunked-cut": SourceInterrupted, "/no-length": READ, "/short": SourceInterrupted,
    "/bad-length": SourceRefused, "/two-lengths": SourceRefused, "/gzip": READ, "/brotli": SourceRefused,
    "/nul": SourceRefused, "/nonsense": SourceRefused, "/hangs-up": SourceUnavailable, "/long-head": SourceRefused,
    "/gone": SourceRefused, "/busy": SourceUnavailable, "/silent": SourceUnavailable, "/drip": SourceTooSlow,
    "/drops": READ, "/drops-by-date": READ, "/drops-no-ranges": READ, "/drops-no-version": SourceInterrupted,
    "/drops-weak": SourceInterrupted, "/changes": SourceInterrupted, "/cookie": READ,
}  # fmt: skip


class Waits:
    """Notes how long an import waits, and does not."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def wait(self, seconds: float, reason: str) -> None:
        assert seconds > 0
        self.reasons.append(reason)

    def resting(self) -> nullcontext[None]:
        return nullcontext()


@pytest.fixture
def server() -> Iterator[Any]:
    with far_server.FarServer() as running:
        yield running


def read(sources: Sources, url: str, waits: Waits | None = None, **options: Any) -> bytes:
    with sources.open(url, options.pop("headers", None), waiter=waits or Waits(), **options) as source:
        buffer, out = bytearray(50_000), b""
        while count := source.read_into(memoryview(buffer)):
            out += buffer[:count]
    return out


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path, LOOPBACK, PACE, patience_s=20)


@pytest.mark.parametrize("path", TABLE)
def test_each_way_of_a_server(server: Any, sources: Sources, path: str) -> None:
    """The file comes whole, or a sentence says what was wrong; nothing else can happen."""
    wanted = TABLE[path]
    if wanted is None:
        assert read(sources, server.url + path) == BODY
        return
    with pytest.raises(wanted) as raised:
        read(sources, server.url + path)
    assert type(raised.value) is wanted
    assert raised.value.message.isprintable()
    assert "bytearray" not in raised.value.message
    assert raised.value.message.endswith(".")


def test_the_table_is_whole() -> None:
    """Every way of the server is in the table, and the docs have each."""
    text = (ROOT / "docs" / "guide" / "imports.md").read_text(encoding="utf-8")
    assert set(far_server.WAYS) <= set(TABLE)
    for path, wanted in TABLE.items():
        row = next((line for line in text.splitlines() if f"`{path}`" in line), "")
        assert f"`{'read' if wanted is None else wanted.__name__}`" in row, path


def test_a_download_goes_on_where_it_broke(server: Any, sources: Sources) -> None:
    """By a range, of the same version only; the action says meanwhile what it waits for."""
    waits = Waits()
    assert read(sources, f"{server.url}/drops", waits) == BODY
    ranges = [(asked.headers.get("range"), asked.headers.get("if-range")) for asked in server.requests]
    assert ranges[:3] == [(None, None), ("bytes=300000-", '"a"'), ("bytes=600000-", '"a"')]
    assert waits.reasons[0].startswith(f"{server.place} broke off after 300000 of {len(BODY)} bytes: ")


def test_patience_ends(server: Any, tmp_path: Path) -> None:
    """A server that stays away is given up, with what came and what is missing."""
    server.ways["/x"] = lambda asked: far_server.drops()(asked) if asked.number == 0 else b""
    waits = Waits()
    with pytest.raises(SourceUnavailable, match="disconnected"):
        read(Sources(tmp_path, LOOPBACK, PACE, patience_s=10), f"{server.url}/x", waits)
    assert len(waits.reasons) == 4  # 0.5, 1, 2 and 4 s


def test_a_wait_can_be_cancelled(server: Any, sources: Sources) -> None:
    """What the waiter raises ends the download."""

    class Cancelled(Waits):
        def wait(self, seconds: float, reason: str) -> None:
            raise ActionCancelled(f"not {seconds} s: {reason}")

    with pytest.raises(ActionCancelled):
        read(sources, f"{server.url}/drops", Cancelled())


def test_the_query_comes_as_it_was_given(server: Any, sources: Sources) -> None:
    """A signature covers the query to the letter. There is one request, a GET that asks for no range."""
    query = "?X-Amz-Credential=AK%2F1%2Faws4&X-Amz-Signature=" + "a" * 5000 + "&x=%20%2B+&y"
    assert read(sources, f"{server.url}/signed{query}") == BODY
    assert [asked.path for asked in server.requests] == ["/signed" + query]
    assert "range" not in server.requests[0].headers


def test_cookies_are_not_kept(server: Any, sources: Sources) -> None:
    """What one reply sets is not sent with the next request."""
    assert read(sources, f"{server.url}/cookie") == BODY
    assert ["cookie" in asked.headers for asked in server.requests] == [False, False]


@pytest.mark.parametrize("path", ["/guarded", "/to-guarded"])
def test_user_and_password_are_for_their_host(server: Any, sources: Sources, path: str) -> None:
    """They are sent as Basic authentication, also after a redirect at the same host."""
    assert read(sources, server.url.replace("//", "//bob:S3cr3tPw@") + path) == BODY


def test_secrets_do_not_follow_to_another_host(server: Any, sources: Sources) -> None:
    """Neither the password nor a header is sent to another port, and none comes back after a second redirect."""
    with far_server.FarServer() as other:
        server.ways["/away"] = far_server.to(f"{other.url}/back")
        other.ways["/back"] = far_server.to(f"{server.url}/whole")
        url = server.url.replace("//", "//bob:S3cr3tPw@") + "/away"
        assert read(sources, url, headers={"X-Token": "secret"}) == BODY
        sent = [*server.requests, *other.requests]
    assert [("authorization" in asked.headers, "x-token" in asked.headers) for asked in sent] == [
        (True, True), (False, False), (False, False),
    ]  # fmt: skip


def test_secrets_follow_to_https_alone() -> None:
    """The same host over https is trusted, never the other way."""
    plain, secure = Target.parse("http://h.test/"), Target.parse("https://h.test/")
    assert plain.trusts(secure)
    assert not secure.trusts(plain)
    assert not plain.trusts(Target.parse("https://h.test:8443/"))


def test_a_checksum_is_compared(server: Any, sources: Sources) -> None:
    """It is that of the file as it comes; the error says both."""
    right = hashlib.sha256(BODY).hexdigest()
    assert read(sources, f"{server.url}/drops", sha256=right.upper()) == BODY
    with pytest.raises(ChecksumWrong, match=f"{right}; {'0' * 64} is wanted"):
        read(sources, f"{server.url}/whole", sha256="0" * 64)


def test_no_secret_is_in_a_message(server: Any, sources: Sources) -> None:
    """Neither what is before the @ nor what is behind the question mark."""
    with pytest.raises(SourceRefused) as raised:
        read(sources, server.url.replace("//", "//bob:S3cr3tPw@") + "/gone?sig=S1gn")
    assert "S3cr3tPw" not in raised.value.message
    assert "S1gn" not in raised.value.message
    assert f"http://{server.place}/gone" in raised.value.message


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://h.test", "http://h.test/"),
        ("HTTP://H.test:80/a b?c d#e", "http://h.test/a%20b?c%20d"),
        ("https://bücher.test/ü?ü=%41", "https://xn--bcher-kva.test/%C3%BC?%C3%BC=%41"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("  http://h.test/x  ", "http://h.test/x"),
    ],
)
def test_urls_are_read_as_browsers_do(url: str, wanted: str) -> None:
    """Spaces and other letters are quoted, names are made ASCII, and what is quoted stays so."""
    assert Target.parse(url).url == wanted


@pytest.mark.parametrize(
    "url",
    ["", "disk.img", "ftp://h.test/", "http://", "http://h.test:port/", "http://h.test:65536/", "http://h.test:0/",
     "http://[::1/x", "http://[fe80::1%25lo]/", "http://a\\b/", "http://h%41.test/", "http://a..b/", "http://h.test/\n",
     "http://h.test/\0", "http://[x]/"],
)  # fmt: skip
def test_what_is_no_url_is_the_callers_error(sources: Sources, url: str) -> None:
    """A URL that could never be read is refused before there is an image."""
    with pytest.raises(Unprocessable, match="Url is invalid"):
        sources.check(url)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Host": "x"}, "can't have 'Host'"),
        ({"range": "bytes=0-"}, "can't have"),
        ({"a b": "x"}, "can't have"),
        ({"X": "secret\r\nY: z"}, "visible ASCII"),
        ({"X": ""}, "visible ASCII"),
        ({f"X-{number}": "x" for number in range(21)}, "too many"),
        ({"X": "x" * 9000}, "too many"),
        ({"Authorization": "Bearer secret"}, "given twice"),
    ],
)
def test_headers_that_can_not_be_sent_are_refused(sources: Sources, headers: dict[str, str], message: str) -> None:
    """The message never has the value, which is a secret."""
    with pytest.raises(Unprocessable, match=message) as raised:
        sources.check("http://bob:pw@h.test/", headers)
    assert "secret" not in raised.value.message


def test_a_checksum_that_is_none_is_refused(sources: Sources) -> None:
    """64 hexadecimal digits are wanted."""
    with pytest.raises(Unprocessable, match="Sha256 is invalid"):
        sources.check("http://h.test/", None, "abc")
