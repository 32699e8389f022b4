"""The only place where the rooms are joined: settings in, a running service out."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import sys
import uuid
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

from wherry.calls import SCOPES
from wherry.errors import BadRequest, Unavailable
from wherry.server.actions import Actions, Regions
from wherry.server.catalog import Catalog, open_sqlite
from wherry.server.check import Finding, check
from wherry.server.clock import Clock
from wherry.server.droplets import NoMachine
from wherry.server.engine import Engine
from wherry.server.http import Service, Wire, make_app
from wherry.server.http.edge import token_digest
from wherry.server.regions_file import served_regions
from wherry.server.settings import Settings, Tls, load_sizes
from wherry.server.sources import Sources
from wherry.server.storage import open_store
from wherry.server.tls import Certificate, ensure_certificate, own_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from wherry.server.catalog import Reader
    from wherry.server.catalog.records import AccountRecord, TokenRecord

__all__ = ["Finding", "Ready", "Settings", "Tls", "check_data", "open_accounts", "open_tokens", "serve"]

log = logging.getLogger("wherry")

_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_KEPT_BYTES = 64 << 20
_SWITCH_S = (
    0.001  # at the default of 5 ms, a request waits for workers longer than it takes; measured 1.2 times the rate
)


@dataclass(frozen=True)
class Ready:
    """What to tell of a service that is ready.

    ``tls_url`` is None without TLS, ``ca_file`` where no local CA signed the certificate. ``secret`` is the token that
    the first start makes, None afterwards.
    """

    url: str
    tls_url: str | None = None
    ca_file: Path | None = None
    secret: str | None = None


def serve(settings: Settings, announce: Callable[[Ready], None]) -> None:
    """Run a service until it is told to stop; ``announce`` is called when it is ready.

    Raises Unavailable if another process uses the data, or an address is taken; BadRequest for a certificate or a
    regions file that can't be used, StorageError for a store that can't be opened.
    """
    with _locked(settings.data):
        _keep_memory()
        sys.setswitchinterval(_SWITCH_S)
        # Before the first token is made: a start that fails would never show it.
        faces = list(_faces(settings))
        regions = _regions(settings)
        clock = Clock()
        catalog = open_sqlite(settings.data / "catalog.db", clock)
        secret = _first_token(catalog, settings)
        service = _assemble(settings, catalog, clock, regions)
        if settings.test_mode:
            service.actions.scheduler.restore_clock()
        service.actions.start()
        if settings.public_images:
            service.actions.publish_first_images()
        service.actions.scheduler.start()
        announce(_ready(faces, secret))
        for face in faces:
            log.info("serve.ready url=%s data=%s", face.url, settings.data)
        app = make_app(service, rate_limit=settings.rate_limit, test_mode=settings.test_mode)
        servers = [_Server(face.config(app)) for face in faces]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(servers, [face.listener for face in faces]))
    # What is in progress goes on at the next start, as after any other end; nothing is lost by not waiting for it.
    log.info("serve.stopped")
    logging.shutdown()
    os._exit(0)


def check_data(settings: Settings, *, deep: bool) -> Iterator[Finding]:
    """Compare the catalog in a data folder with the stores; a service may be running there."""
    with _opened(settings.data) as catalog:
        yield from check(catalog, _regions(settings), deep=deep)


@contextmanager
def open_tokens(data: Path) -> Iterator[Tokens]:
    """The tokens in a data folder; a service may be running there."""
    with _opened(data) as catalog:
        yield Tokens(catalog)


@contextmanager
def open_accounts(data: Path) -> Iterator[Accounts]:
    """The accounts in a data folder; a service may be running there."""
    with _opened(data) as catalog:
        yield Accounts(catalog)


class Accounts:
    """Makes and lists accounts."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def create(self, email: str, name: str | None = None) -> tuple[AccountRecord, str]:
        """Make an account; answers it, and the secret of its first token. Raises BadRequest or Unprocessable."""
        local, at, domain = email.partition("@")
        if not (local and at and domain) or "@" in domain or not email.isprintable() or " " in email:
            raise BadRequest(f"{email!r} is no e-mail address.")
        secret = _new_secret()
        with self._catalog.begin() as tx:
            account = tx.add_account(str(uuid.uuid4()), email, name or local)
            tx.add_token(account.id, "first", token_digest(secret), None)
        return account, secret

    def list(self) -> list[AccountRecord]:
        """All accounts, the oldest first; that is the operator's."""
        with self._catalog.read() as reader:
            return reader.accounts()


class Tokens:
    """Makes, lists and revokes tokens."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def create(self, name: str, scopes: Iterable[str] = (), account: str | None = None) -> str:
        """Make a token and answer its secret, which is kept nowhere; no scopes is full access. Raises BadRequest.

        ``account`` is an e-mail or a UUID; the operator's account unless told.
        """
        wanted = sorted(set(scopes))
        if unknown := [scope for scope in wanted if scope not in SCOPES]:
            raise BadRequest(f"There is no scope {', '.join(unknown)}; the known ones are {', '.join(SCOPES)}.")
        secret = _new_secret()
        with self._catalog.begin() as tx:
            tx.add_token(_account(tx, account).id, name, token_digest(secret), wanted or None)
        return secret

    def list(self) -> list[tuple[TokenRecord, AccountRecord]]:
        """All tokens, without their secrets, each with the account that it is of."""
        with self._catalog.read() as reader:
            accounts = {one.id: one for one in reader.accounts()}
            return [(one, accounts[one.account_id]) for one in reader.tokens()]

    def revoke(self, token_id: int) -> None:
        """End a token's validity; a running service hears of it within a second. Raises NotFound."""
        with self._catalog.begin() as tx:
            tx.revoke_token(token_id)


def _assemble(settings: Settings, catalog: Catalog, clock: Clock, regions: Regions) -> Service:
    for store in regions.stores.values():
        store.backend.sweep_unfinished()  # nobody else uses them: the data folder is locked
    spool = settings.data / "spool"
    spool.mkdir(exist_ok=True)
    engine = Engine(settings.data / "catalog.db", settings.concurrency)
    sources = Sources(spool, settings.readable_networks)
    sizes = load_sizes()
    actions = Actions(
        catalog, engine, regions, sources, sizes=sizes, driver=NoMachine(), clock=clock,
        largest_bytes=settings.largest_image_bytes,
    )  # fmt: skip
    return Service(catalog, actions, regions, sizes, Wire(regions.by_slug, sizes))


def _regions(settings: Settings) -> Regions:
    served = served_regions(settings).regions
    stores = {slug: open_store(one.store_url, one.options) for slug, one in served.items()}
    return Regions({slug: one.region for slug, one in served.items()}, stores)


def _first_token(catalog: Catalog, settings: Settings) -> str | None:
    """Make the first account and its token at the first start; see that the bootstrap token is valid at any."""
    with catalog.begin() as tx:
        found = tx.first_account()
        account = found or tx.add_account(str(uuid.uuid4()), "owner@wherry.invalid", "Owner")
        if settings.bootstrap_token is not None:
            digest = token_digest(settings.bootstrap_token)
            if tx.token(digest) is None:
                tx.add_token(account.id, "bootstrap", digest, None)
            return None
        if found is not None:
            return None
        secret = _new_secret()
        tx.add_token(account.id, "first", token_digest(secret), None)
        return secret


def _new_secret() -> str:
    return "dop_v1_" + secrets.token_hex(32)


def _account(reader: Reader, word: str | None) -> AccountRecord:
    """The account of this e-mail or UUID, or the operator's."""
    if word is None:
        if (first := reader.first_account()) is None:
            raise BadRequest("There is no account yet: start the service once (wherry serve).")
        return first
    if (found := reader.find_account(email=word, uuid=word)) is None:
        raise BadRequest(f"There is no account {word}; 'wherry account list' lists them.")
    return found


@contextmanager
def _opened(data: Path) -> Iterator[Catalog]:
    _must_exist(data)
    catalog = open_sqlite(data / "catalog.db")
    try:
        yield catalog
    finally:
        catalog.close()


def _must_exist(data: Path) -> None:
    if not (data / "catalog.db").exists():
        raise BadRequest(
            f"There is no wherry data in {data}: start the service there once (wherry serve --data {data})."
        )


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Use a data folder alone. The lock goes with the process, however that ends."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise Unavailable(f"The data folder {data} can't be used: {error.strerror}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = json.loads(lock.read() or "{}").get("pid", "unknown")
            raise Unavailable(f"Another wherry (process {owner}) uses the data folder {data}.") from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid()}))
        lock.flush()
        yield


@dataclass(frozen=True)
class _Face:
    """An address that is listened on, and the certificate that is shown there; without one, it is plain http."""

    listener: socket.socket
    url: str
    certificate: Certificate | None = None

    def config(self, app: Any) -> uvicorn.Config:
        shown = self.certificate
        return uvicorn.Config(
            app, http="httptools", lifespan="off", access_log=False, log_config=None, server_header=False,
            timeout_graceful_shutdown=2, timeout_keep_alive=75, ssl_certfile=shown.cert_file if shown else None,
            ssl_keyfile=shown.key_file if shown else None,
        )  # fmt: skip


class _Server(uvicorn.Server):
    """A server that leaves the signals to ``_run``: each one would take them from the other."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # a generator's more narrow type
        return nullcontext()


async def _run(servers: list[_Server], listeners: list[socket.socket]) -> None:
    """Serve one app at several addresses until a signal stops all of them."""

    def stop(number: int) -> None:
        for server in servers:
            server.handle_exit(number, None)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    await asyncio.gather(
        *(server.serve(sockets=[listener]) for server, listener in zip(servers, listeners, strict=True))
    )


def _faces(settings: Settings) -> Iterator[_Face]:
    """Take the addresses; the first is plain http, the one with TLS may stand beside it."""
    listener = _listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    yield _Face(listener, _url("http", host, port))
    if tls := settings.tls:
        certificate = _certificate(tls, settings.data.resolve() / "tls")
        listener = _listen(tls.host, tls.port)
        # By the name that the certificate has: the address behind it may not be in there, and 0.0.0.0 is in none.
        host = "localhost" if tls.host in {"0.0.0.0", "::"} else tls.host  # noqa: S104  nothing is bound here
        yield _Face(listener, _url("https", host, listener.getsockname()[1]), certificate)


def _certificate(tls: Tls, folder: Path) -> Certificate:
    return own_certificate(*tls.own) if tls.own else ensure_certificate(folder, [tls.host, *tls.names])


def _ready(faces: list[_Face], secret: str | None) -> Ready:
    secure = next((face for face in faces if face.certificate), None)
    if secure is None or secure.certificate is None:
        return Ready(faces[0].url, secret=secret)
    return Ready(faces[0].url, secure.url, secure.certificate.ca_file, secret)


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise Unavailable(f"The address {host}:{port} can't be listened on: {error.strerror}.") from error


def _keep_memory() -> None:
    """Tell glibc to keep the megabyte-sized buffers it frees instead of giving their pages back.

    Without it, decompressing in threads spends more time on fresh pages than on decompressing.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library, with another allocator
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
