"""The only place where the rooms are joined: settings in, a running service out."""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.errors import BadRequest, Unavailable
from wherry.server.actions import Actions, Regions
from wherry.server.admin import Accounts, Tokens, first_token
from wherry.server.catalog import Catalog, open_postgres, open_sqlite, schema_of, upgrade_postgres
from wherry.server.check import Finding, check
from wherry.server.clock import Clock
from wherry.server.droplets import NoMachine
from wherry.server.engine import Engine, Pool
from wherry.server.faces import Face, run_servers, take_addresses
from wherry.server.http import Service, Wire, make_app
from wherry.server.settings import Settings, Tls, load_regions, load_sizes
from wherry.server.sources import Sources
from wherry.server.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = [
    "Finding",
    "Ready",
    "Settings",
    "Tls",
    "check_data",
    "open_accounts",
    "open_tokens",
    "schema_of",
    "serve",
    "upgrade_postgres",
    "work",
]

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

    Raises Unavailable if another process uses the data, an address is taken or the database does not answer; BadRequest
    for a certificate that can't be used.
    """
    with _owned(settings):
        _prepare_process()
        faces = take_addresses(settings)  # before the first token is made: a start that fails would never show it
        clock = Clock()
        catalog = _open_catalog(settings, clock)
        secret = first_token(catalog, settings.bootstrap_token)
        service = _assemble(settings, catalog, clock)
        if settings.test_mode:
            service.actions.scheduler.restore_clock()
        service.actions.start(alone=settings.is_embedded)
        if settings.public_images:
            service.actions.publish_first_images(wait=settings.slots > 0)
        service.actions.scheduler.start()
        announce(_ready(faces, secret))
        for face in faces:
            log.info("serve.ready url=%s data=%s", face.url, settings.data)
        run_servers(faces, make_app(service, rate_limit=settings.rate_limit, test_mode=settings.test_mode))
        _leave(service.actions, settings)


def work(settings: Settings, announce: Callable[[], None]) -> None:
    """Run actions of a database that others serve, until told to stop; then hand over what has not ended.

    Raises BadRequest where no database is given, Unavailable if it does not answer.
    """
    if settings.is_embedded:
        raise BadRequest("A worker needs a database that it shares with others: --database postgresql://...")
    _prepare_process()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    clock = Clock()
    settings.data.mkdir(parents=True, exist_ok=True)
    actions = _assemble(settings, _open_catalog(settings, clock), clock).actions
    actions.start(alone=False)
    actions.scheduler.start()
    announce()
    stop.wait()
    _leave(actions, settings)


def _leave(actions: Actions, settings: Settings) -> None:
    """Let what runs end for a while, hand over the rest, and go: whoever has it then needs nothing of this process."""
    try:
        actions.stop(settings.grace_s)
    except Unavailable as error:  # the others find out by themselves
        log.warning("stop.unheard %s", error.message)
    log.info("serve.stopped")
    logging.shutdown()
    os._exit(0)


def check_data(settings: Settings, *, deep: bool) -> Iterator[Finding]:
    """Compare the catalog with the stores; a service may be running there."""
    with _opened(settings) as catalog:
        yield from check(catalog, _regions(settings), deep=deep)


@contextmanager
def open_tokens(settings: Settings) -> Iterator[Tokens]:
    """The tokens in a catalog; a service may be running there."""
    with _opened(settings) as catalog:
        yield Tokens(catalog)


@contextmanager
def open_accounts(settings: Settings) -> Iterator[Accounts]:
    """The accounts in a catalog; a service may be running there."""
    with _opened(settings) as catalog:
        yield Accounts(catalog)


def _assemble(settings: Settings, catalog: Catalog, clock: Clock) -> Service:
    regions = _regions(settings)
    for store in regions.stores.values():
        store.backend.sweep_unfinished()
    spool = settings.data / "spool"
    spool.mkdir(exist_ok=True)
    engine = Engine(catalog, Pool(settings.slots, settings.lease_s, settings.patience_s))
    sources = Sources(spool, settings.readable_networks)
    sizes = load_sizes()
    actions = Actions(
        catalog, engine, regions, sources, sizes=sizes, driver=NoMachine(), clock=clock,
        largest_bytes=settings.largest_image_bytes, scrub_days=settings.scrub_days,
    )  # fmt: skip
    return Service(catalog, actions, regions, sizes, Wire(regions.by_slug, sizes))


def _regions(settings: Settings) -> Regions:
    by_slug = load_regions(settings.regions)
    folder = settings.data.resolve() / "regions"
    return Regions(by_slug, {slug: open_store((folder / slug).as_uri()) for slug in by_slug})


def _open_catalog(settings: Settings, clock: Clock) -> Catalog:
    if settings.database is not None:
        return open_postgres(settings.database, clock)
    return open_sqlite(settings.data / "catalog.db", clock)


@contextmanager
def _opened(settings: Settings) -> Iterator[Catalog]:
    if settings.is_embedded and not (settings.data / "catalog.db").exists():
        raise BadRequest(
            f"There is no wherry data in {settings.data}: start the service there once "
            f"(wherry serve --data {settings.data})."
        )
    catalog = _open_catalog(settings, Clock())
    try:
        yield catalog
    finally:
        catalog.close()


def _owned(settings: Settings) -> AbstractContextManager[None]:
    """Embedded, the data folder is one process's; with a database, it only has what a process may lose."""
    if settings.is_embedded:
        return _locked(settings.data)
    settings.data.mkdir(parents=True, exist_ok=True)
    return nullcontext()


def _ready(faces: list[Face], secret: str | None) -> Ready:
    secure = next((face for face in faces if face.certificate), None)
    if secure is None or secure.certificate is None:
        return Ready(faces[0].url, secret=secret)
    return Ready(faces[0].url, secure.url, secure.certificate.ca_file, secret)


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


def _prepare_process() -> None:
    _keep_memory()
    sys.setswitchinterval(_SWITCH_S)


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
