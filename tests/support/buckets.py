"""Stores for tests that speak S3: one that keeps its word, and a proxy that does not."""

from __future__ import annotations

import hashlib
import itertools
import threading
import urllib.request
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wherry.server.storage import StoreOptions
from wherry.server.storage.backends.object_store import open_bucket

if TYPE_CHECKING:
    from typing import Self

    from wherry.server.storage import ObjectStoreBackend

ENVIRON = {"TEST_ACCESS_KEY_ID": "AKIAMADEUP", "TEST_SECRET_ACCESS_KEY": "made-up-secret"}
_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "date", "server"})


class Buckets:
    """A server with one bucket, ``images``. Every backend is alone below a prefix of its own unless told."""

    bucket = "images"

    def __init__(self, url: str) -> None:
        self.url = url
        self._prefixes = itertools.count()

    def make_bucket(self) -> None:
        """Make the bucket."""
        request = urllib.request.Request(f"{self.url}/{self.bucket}", method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            pass

    def new_url(self) -> str:
        """A store's URL that nothing else uses."""
        return f"s3://{self.bucket}/test/{next(self._prefixes)}"

    def copy(self, source: str, target: str) -> None:
        """Copy all that lies below a store's URL to below another one."""
        before, after = (urlsplit(url).path.strip("/") for url in (source, target))
        with closing(HTTPConnection(urlsplit(self.url).netloc, timeout=30)) as connection:
            for key, _ in list(self.backend(source).list("")):
                headers = {"x-amz-copy-source": f"/{self.bucket}/{before}/{key}"}
                connection.request("PUT", f"/{self.bucket}/{after}/{key}", headers=headers)
                reply = connection.getresponse()
                reply.read()
                assert reply.status == 200, f"{key}: {reply.status}"

    def empty(self, url: str) -> None:
        """Remove all that lies below a store's URL."""
        backend = self.backend(url)
        for key, _ in list(backend.list("")):
            backend.delete(key)

    def backend(
        self, url: str = "", *, endpoint: str = "", timeout_s: float = 20, retries: int = 0
    ) -> ObjectStoreBackend:
        """A backend, perhaps by way of a proxy."""
        options = StoreOptions(
            endpoint=endpoint or self.url, credentials="TEST", connect_timeout_s=timeout_s,
            request_timeout_s=timeout_s, retries=retries, retry_for_s=timeout_s,
        )  # fmt: skip
        return open_bucket(url or self.new_url(), options, ENVIRON)


class Meddler:
    """A proxy before a store. Nothing is wrong until a fault is set; each stays until it is taken back.

    ``flip_put`` and ``flip_get`` flip a bit in every body on its way; ``cut_get`` ends every answer a byte too early;
    ``lose_put`` answers a put and keeps nothing of it; ``lose_answer`` keeps a put and hangs up before its answer;
    ``unconditional`` puts whatever is there; ``opaque`` gives ETags that are no MD5, as with KMS;
    ``refuse`` answers every request with a status and a body.
    """

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.flip_put = self.flip_get = self.cut_get = self.lose_put = False
        self.lose_answer = self.unconditional = self.opaque = False
        self.refuse: tuple[int, bytes] | None = None
        self.silent = threading.Event()  # set: no request is answered, until it is cleared or the proxy ends
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self._server = _Proxy(("127.0.0.1", 0), _Handler)
        self._server.meddler = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    meddler: Meddler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def do_GET(self) -> None:
        """Pass a request on, and its answer back."""
        faults = self.server.meddler
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        faults.asked.append(f"{self.command} {self.path}")
        faults.headers.append({name.lower(): value for name, value in self.headers.items()})
        if faults.silent.is_set():
            faults.ended.wait(60)
            self.close_connection = True
            return
        if faults.refuse is not None:
            self._answer(faults.refuse[0], {}, faults.refuse[1])
            return
        is_put = self.command == "PUT"
        if is_put and faults.lose_put:
            self._answer(200, {"ETag": '"opaque"' if faults.opaque else f'"{_md5(body)}"'}, b"")
            return
        if is_put and faults.flip_put:
            body = flipped(body)
        status, headers, answer = self._pass_on(body)
        if faults.opaque and "ETag" in headers:
            headers["ETag"] = f'"{_md5(headers["ETag"].encode())}"'
        if is_put and faults.lose_answer:
            self.close_connection = True
            return
        if self.command == "GET" and status in {200, 206} and faults.flip_get and "list-type" not in self.path:
            answer = flipped(answer)
        self._answer(status, headers, answer)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815  as the library calls them

    def _pass_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        faults = self.server.meddler
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        if faults.unconditional:
            headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
        connection = HTTPConnection(faults.target, timeout=30)
        try:
            connection.request(self.command, self.path, body, headers)
            reply = connection.getresponse()
            return reply.status, dict(reply.headers.items()), reply.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.meddler.cut_get and self.command == "GET" and body:
            body = body[:-1]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its own name for it
        """Say nothing."""


def flipped(data: bytes) -> bytes:
    """The bytes with one bit flipped."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data


def _md5(data: bytes) -> str:

    return hashlib.md5(data, usedforsecurity=False).hexdigest()
