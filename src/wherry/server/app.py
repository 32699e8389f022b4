"""The only place where the rooms are joined: settings in, a running service out."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wherry.errors import BadRequest, StorageError, Unavailable
from wherry.server.actions.driver import NoMachine
from wherry.server.actions.first_images import publish_first_images
from wherry.server.admin.accounts import (
    Accounts,
    Tokens,
    check_bootstrap_token,
    first_account,
    first_token,
    revoke_weak_tokens,
)
from wherry.server.admin.check import Finding, check
from wherry.server.admin.rebuild import Rebuilt, check_possible, rebuild
from wherry.server.assembly import assemble
from wherry.server.catalog import (
    Catalog,
    check_sqlite,
    copy_sqlite,
    open_postgres,
    open_sqlite,
    read_sqlite,
    schema_of,
    upgrade_postgres,
)
from wherry.server.catalog.census import CensusTaker
from wherry.server.catalog.recovery import Recovery
from wherry.server.clock import Clock
from wherry.server.disks.sources import Pace, Sources
from wherry.server.engine.embedded import Engine, Pool
from wherry.server.http import Hosts, Service, make_app
from wherry.server.http.exports import ExportLimits, Exports
from wherry.server.http.health import Checks, Proof, make_health_app
from wherry.server.http.listeners import Face, run_servers, take_address, take_addresses
from wherry.server.http.running import Running
from wherry.server.machine.descriptors import DescriptorCheck, share_descriptors
from wherry.server.machine.disk_space import Disk
from wherry.server.machine.memory import exempt_from_collection, keep_freed_memory
from wherry.server.machine.private_files import tighten
from wherry.server.machine.stopping import end_by_deadline
from wherry.server.regions.file import open_region, served_regions, store_folder
from wherry.server.regions.served import Regions
from wherry.server.regions.store_ids import adopt_store, check_stores, known_ids, refuse_used_stores, remember
from wherry.server.rules.dispatch import Rules
from wherry.server.secrets import SECRET_KEYS, open_secrets
from wherry.server.settings import Settings, Tls, load_sizes
from wherry.server.storage import Store
from wherry.server.telemetry import metrics, tracing
from wherry.server.telemetry.loops import Loops
from wherry.server.uploads.region_spool import RegionSpool
from wherry.server.uploads.spool import FolderSpool, Spool
from wherry.server.uploads.store_spool import StoreSpool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import TextIO

    from wherry.server.regions.file import ServedRegions

__all__ = [
    "Finding",
    "Ready",
    "Rebuilt",
    "Settings",
    "Tls",
    "adopt_regions",
    "back_up",
    "check_data",
    "open_accounts",
    "open_tokens",
    "rebuild_catalog",
    "restore_catalog",
    "schema_of",
    "serve",
    "upgrade_postgres",
    "work",
]

log = logging.getLogger("wherry")

_GLANCE_S = 0.2
_TAKE_S = 0.5
_PROVED = "change_proved_at"
_SWITCH_S = (
    0.001  # at the default of 5 ms, a request waits for workers longer than it takes; measured 1.2 times the rate
)


@dataclass(frozen=True)
class Ready:
    """What to tell of a service that is ready.

    ``tls_url`` is None without TLS, ``ca_file`` where no local CA signed the certificate. ``secret`` is the token that
    the first start makes, None afterwards. ``warnings`` are sentences that the operator must see.
    """

    url: str
    tls_url: str | None = None
    ca_file: Path | None = None
    secret: str | None = None
    warnings: tuple[str, ...] = ()


def serve(settings: Settings, announce: Callable[[Ready], None]) -> None:
    """Run a service until it is told to stop; ``announce`` is called when it is ready.

    Raises Unavailable if another process uses the data, an address is taken or the database does not answer; BadRequest
    for a bootstrap token, a certificate or a regions file that can't be used, StorageError for a store that can't be
    opened.
    """
    check_bootstrap_token(settings.bootstrap_token, test_mode=settings.test_mode)
    with _owned(settings) as disk:
        _prepare_process("serve", settings)
        # Before the first token is made: a start that fails would never show it.
        faces = take_addresses(settings)
        served = served_regions(settings)
        regions = _regions(served, disk)
        if not _has_catalog(settings):
            refuse_used_stores(regions)  # before any file is made: a new catalog would be this service's from then on
        clock = Clock()
        catalog = _open_catalog(settings, clock, disk)
        check_stores(catalog, regions)
        warnings = tuple(_revoke_weak_tokens(catalog, settings))
        secret = first_token(catalog, settings.bootstrap_token)
        loops = Loops()
        service, health = _build(settings, catalog, clock, regions, served, loops=loops)
        if settings.test_mode:
            service.scheduler.restore_clock()
        service.engine.start(alone=settings.is_embedded)
        service.uploads.sweep()
        if settings.public_images:
            publish_first_images(catalog, regions, service.imports, service.transfers, wait=settings.slots > 0)
        service.scheduler.start(loops)
        announce(_ready(faces, secret, warnings))
        for face in faces:
            log.info("serve.ready url=%s data=%s", face.url, settings.data)
        app = make_app(
            service, rate_limit=settings.rate_limit, test_mode=settings.test_mode, health=health,
            hosts=_hosts(settings), largest_body_bytes=settings.limits.body_bytes,
        )  # fmt: skip
        exempt_from_collection()
        run_servers(faces, app, settings.limits)
        _leave(service.engine, settings)


def work(settings: Settings, announce: Callable[[], None]) -> None:
    """Run actions of a database that others serve, until told to stop; then hand over what has not ended.

    Raises BadRequest where no database is given, Unavailable if it does not answer.
    """
    if settings.is_embedded:
        raise BadRequest("A worker needs a database that it shares with others: --database postgresql://...")
    _prepare_process("worker", settings)
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    _tighten(settings.data)
    face = take_address(*settings.health) if settings.health else None
    served = served_regions(settings)
    clock = Clock()
    catalog, regions = _open_catalog(settings, clock), _regions(served)
    check_stores(catalog, regions)
    loops = Loops()
    service, health = _build(settings, catalog, clock, regions, served, loops=loops)
    service.engine.start(alone=False)
    service.uploads.sweep()
    service.scheduler.start(loops)
    announce()
    if face is not None:
        run_servers([face], make_health_app(health, _hosts(settings)), settings.limits)
    else:
        _wait_for_signal()
    _leave(service.engine, settings)


def _hosts(settings: Settings) -> Hosts:
    return Hosts(settings.host_names, settings.public_url)


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    while not stop.wait(_GLANCE_S):  # the system may hand a signal to another thread, which does not wake this one
        pass


def _leave(engine: Engine, settings: Settings) -> None:
    """Let what runs end for a while, hand over the rest, and exit: other processes need nothing of this one."""
    try:
        engine.stop(settings.grace_s)
    except Unavailable as error:  # the others find out by themselves
        log.warning("stop.unheard %s", error.message)
    log.info("serve.stopped")
    tracing.stop_tracing()
    logging.shutdown()
    os._exit(0)


def check_data(settings: Settings, *, deep: bool) -> list[Finding]:
    """Compare the catalog with the stores, and change neither; a service may be running there."""
    with _opened_to_read(settings) as catalog:
        return check(catalog, _regions(served_regions(settings)), deep=deep)


def back_up(settings: Settings, target: Path) -> None:
    """Copy the catalog of a data folder into a new file, as it is at one moment; a service may be running there.

    Raises BadRequest where there is none or the file is there already, Unavailable if the copy can't be made.
    """
    _check_found(settings)
    copy_sqlite(settings.data / "catalog.db", target, partial(_is_in_use, settings.data))


def restore_catalog(settings: Settings, source: Path) -> None:
    """Copy a backup of a catalog into a data folder that has none. No service may run there.

    Raises BadRequest if the folder has a catalog, or the file is no whole catalog; Unavailable if a newer wherry wrote
    it, a service runs or the copy can't be made. Nothing is written then.
    """
    check_sqlite(source)
    with _locked(settings.data, settings.reserve_bytes):
        if there := sorted(file.name for file in settings.data.glob("catalog.db*") if file.suffix != ".lock"):
            raise BadRequest(
                f"{settings.data} has a catalog already ({', '.join(there)}); a restore never replaces one: move these "
                "files away first, all of them."
            )
        copy_sqlite(source, settings.data / "catalog.db", lambda: False)


def rebuild_catalog(
    settings: Settings, told: Callable[[str], None], *, dry_run: bool = False
) -> tuple[Rebuilt, str | None]:
    """Make a new catalog from what lies in the regions' stores, and return what was found and the operator's token.

    The token is None where the catalog has an account already, and with ``dry_run``, which writes nothing. ``told``
    hears how far it is. No service may run: in a data folder that is seen to, in a database only that none ever ran.

    Raises Unavailable, BadRequest, and what ``rebuild`` raises; then nothing is written.
    """
    if settings.regions_file is None and not (settings.data / "regions").is_dir():
        raise BadRequest(f"There are no stores in {settings.data}; where they lie elsewhere, give --regions-file.")
    regions = _regions(served_regions(settings))
    if dry_run and settings.is_embedded and _is_in_use(settings.data):
        raise _used(settings.data)
    with nullcontext() if dry_run else _owned(settings), _to_fill(settings, dry_run) as catalog:
        with catalog.begin() as tx:
            account, secret = first_account(tx)
            found = rebuild(tx, regions, account.id, told)
            remember(tx, known_ids(regions))
        return found, None if dry_run else secret


@contextmanager
def _to_fill(settings: Settings, dry_run: bool) -> Iterator[Catalog]:  # noqa: FBT001  one caller, right above
    """The catalog that a rebuild fills; with ``dry_run`` one that is thrown away, once it is seen that it could be."""
    if not dry_run:
        with closing(_open_catalog(settings, Clock())) as catalog:
            yield catalog
        return
    if _has_catalog(settings):
        with _opened_to_read(settings) as there, there.begin() as tx:
            check_possible(Recovery(tx))
    with (
        tempfile.TemporaryDirectory(prefix="wherry-rebuild-") as folder,
        closing(open_sqlite(Path(folder) / "catalog.db")) as catalog,
    ):
        yield catalog


def adopt_regions(settings: Settings, slugs: Sequence[str]) -> None:
    """Let the stores of these regions be the ones that are there now. A service may be running.

    A data folder without a catalog gets a new one: its first start would refuse stores that are in use. Raises
    BadRequest for a region that is not served.
    """
    regions = _regions(served_regions(settings))
    if not _has_catalog(settings) and not settings.data.is_dir():
        _check_found(settings)
    with (
        nullcontext() if _has_catalog(settings) else _locked(settings.data, settings.reserve_bytes),
        closing(_open_catalog(settings, Clock())) as catalog,
    ):
        for slug in slugs:
            adopt_store(catalog, regions, slug)


@contextmanager
def open_tokens(settings: Settings, *, to_read: bool = False) -> Iterator[Tokens]:
    """The tokens in a catalog, perhaps only to read them; a service may be running there."""
    with (_opened_to_read if to_read else _opened)(settings) as catalog:
        yield Tokens(catalog)


@contextmanager
def open_accounts(settings: Settings, *, to_read: bool = False) -> Iterator[Accounts]:
    """The accounts in a catalog, perhaps only to read them; a service may be running there."""
    with (_opened_to_read if to_read else _opened)(settings) as catalog:
        yield Accounts(catalog)


def _build(
    settings: Settings, catalog: Catalog, clock: Clock, regions: Regions, served: ServedRegions, *, loops: Loops
) -> tuple[Service, Checks]:
    for slug, store in regions.stores.items():
        try:
            store.backend.sweep_unfinished()
        except StorageError as error:  # its disk is read-only: it can still be read
            log.warning("stores.not_swept region=%s %s", slug, error.message)
    folder = settings.data / "spool"
    folder.mkdir(exist_ok=True)
    rules = Rules({slug: one.limits for slug, one in served.regions.items()}, served.pairs)
    # Alone, an action of a region that is not served has no process to wait for: it errors, and says why.
    elsewhere = None if settings.is_embedded else served.regions
    pool = Pool(settings.slots, settings.lease_s, settings.patience_s, settings.import_patience_s)
    engine = Engine(catalog, pool, rules, regions=elsewhere, loops=loops)
    pace = Pace(bytes_per_s=settings.import_floor)
    sources = Sources(folder, settings.readable_networks, pace, patience_s=settings.import_patience_s)
    secrets = open_secrets(settings.data / "secrets.key", os.environ.get(SECRET_KEYS))
    spool: Spool = StoreSpool(catalog, regions, lambda: engine.process_id)
    if regions.home is not None:
        spool = RegionSpool(catalog, regions, folder=FolderSpool(catalog, folder, regions.home), stores=spool)
    share = share_descriptors(settings.limits.connections)
    service = assemble(
        catalog, engine, regions, sources, secrets, spool=spool, sizes=load_sizes(), driver=NoMachine(), clock=clock,
        largest_bytes=settings.largest_image_bytes, compact_bytes=settings.compact_bytes,
        scrub_days=settings.scrub_days, accept_unknown_raw=settings.accept_unknown_raw,
        upload_age=timedelta(hours=settings.keep_upload_hours),
        background_age=timedelta(days=settings.keep_background_days),
        exports=Exports(ExportLimits(settings.most_exports, settings.slowest_export)),
        running_uploads=Running("uploads", settings.most_uploads, share.uploads),
    )  # fmt: skip
    metrics.expect(regions.by_slug, service.action_types)
    census = CensusTaker(catalog, regions.by_slug, engine.silences)
    checks = {
        "catalog": lambda: _ask(catalog),
        "changes": Proof(lambda: _change(catalog)).check,
        "process": engine.check,
        "loops": loops.check,
        "descriptors": DescriptorCheck(share).check,
    }
    if regions.home is not None:
        checks["disk"] = regions.home.check_changes
    health = Checks(
        checks,
        census.take,
        alive=lambda: _check_turns(catalog, settings.stall_s),
        loops=loops.ages,
        writing=regions.check_home,
    )
    return service, health


def _ask(catalog: Catalog) -> None:
    with catalog.read() as reader:
        reader.is_waiting()


def _change(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        tx.set_setting(_PROVED, tx.moment.isoformat())


def _check_turns(catalog: Catalog, stall_s: float) -> None:
    if (stalled_s := catalog.stalled_s()) > stall_s:
        raise Unavailable(f"Changes of the catalog have been waiting for {stalled_s:.0f} s, and none had its turn.")


def _regions(served: ServedRegions, home: Disk | None = None) -> Regions:
    """The regions with their stores. ``home`` is the catalog's disk, on which stores may lie as well."""
    by_device = {} if home is None else {home.device: home}
    disks: dict[str, Disk] = {}
    for slug, one in served.regions.items():
        if (folder := store_folder(one)) is not None:
            disk = Disk(folder)
            disks[slug] = by_device.setdefault(disk.device, disk)
    stores = {
        slug: Store(open_region(slug, one, partial(disks[slug].check_bytes, slug) if slug in disks else _no_check))
        for slug, one in served.regions.items()
    }
    return Regions({slug: one.region for slug, one in served.regions.items()}, stores, disks, home)


def _no_check() -> None:
    """A bucket says by itself that it is full."""


def _open_catalog(settings: Settings, clock: Clock, disk: Disk | None = None) -> Catalog:
    if settings.database is not None:
        return open_postgres(settings.database, clock)
    return open_sqlite(settings.data / "catalog.db", clock, disk)


@contextmanager
def _opened(settings: Settings) -> Iterator[Catalog]:
    _check_found(settings)
    with closing(_open_catalog(settings, Clock())) as catalog:
        yield catalog


@contextmanager
def _opened_to_read(settings: Settings) -> Iterator[Catalog]:
    """The catalog, of which nothing is changed: not a file of its folder, also where nothing may be written."""
    _check_found(settings)
    if not settings.is_embedded:
        with _opened(settings) as catalog:
            yield catalog
        return
    with read_sqlite(settings.data / "catalog.db", partial(_is_in_use, settings.data)) as catalog:
        yield catalog


def _is_in_use(data: Path) -> bool:
    """Whether a process uses a data folder alone. Makes and writes nothing."""
    try:
        with (data / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise Unavailable(f"The data folder {data} can't be read: {error.strerror}.") from error
    return False


def _used(data: Path) -> Unavailable:
    try:
        owner = json.loads((data / "lock").read_bytes() or b"{}").get("pid", "unknown")
    except (OSError, ValueError):
        owner = "unknown"
    return Unavailable(f"Another wherry (process {owner}) uses the data folder {data}.")


def _has_catalog(settings: Settings) -> bool:
    """Return whether there is a catalog: a database that was given counts as one, though it may be empty."""
    return not settings.is_embedded or (settings.data / "catalog.db").exists()


def _check_found(settings: Settings) -> None:
    if not _has_catalog(settings):
        raise BadRequest(
            f"There is no wherry data in {settings.data}: start the service there once "
            f"(wherry serve --data {settings.data})."
        )


def _owned(settings: Settings) -> AbstractContextManager[Disk | None]:
    """Embedded, the data folder is one process's; with a database, it only has what a process may lose."""
    if settings.is_embedded:
        return _locked(settings.data, settings.reserve_bytes)
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    _tighten(settings.data)
    return nullcontext()


def _tighten(data: Path) -> None:
    """Close a data folder to other users: an older version, and a copy by hand, follow the umask."""
    try:
        changed = tighten(data)
    except OSError as error:  # it belongs to another user, as a volume may that is mounted there
        log.warning("data.open %s may be read by other users, and this one can't change that: %s", data, error)
    else:
        if changed:
            log.warning(
                "data.tightened %s: other users had access to %d files and folders, and have none now", data, changed
            )


def _revoke_weak_tokens(catalog: Catalog, settings: Settings) -> Iterator[str]:
    for token in revoke_weak_tokens(catalog, test_mode=settings.test_mode):
        log.warning("tokens.revoked token_id=%d name=%s its secret was empty or too short", token.id, token.name)
        yield (
            f"Token {token.id} ({token.name}) was revoked: its secret was empty or too short, so that anyone could "
            "have used it."
        )


def _ready(faces: list[Face], secret: str | None, warnings: tuple[str, ...]) -> Ready:
    secure = next((face for face in faces if face.certificate), None)
    if secure is None or secure.certificate is None:
        return Ready(faces[0].url, secret=secret, warnings=warnings)
    return Ready(faces[0].url, secure.url, secure.certificate.ca_file, secret, warnings)


@contextmanager
def _locked(data: Path, reserve_bytes: int) -> Iterator[Disk]:
    """Use a data folder alone; its disk is looked at first. The lock goes with the process, however that ends."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (data / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise Unavailable(f"The data folder {data} can't be used: {error.strerror}.") from error
    with lock:
        _take(lock, data)
        _tighten(data)
        disk = Disk(data, reserve_bytes)
        with suppress(OSError):  # the disk is full, and nothing is left of its reserve
            lock.truncate(0)
            lock.write(json.dumps({"pid": os.getpid()}))
            lock.flush()
        yield disk


def _take(lock: TextIO, data: Path) -> None:
    """Take the lock of a data folder; what reads the folder has it for an instant, to see whether it is in use."""
    deadline = time.monotonic() + _TAKE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _used(data) from None
            time.sleep(_GLANCE_S)
        else:
            return


def _prepare_process(role: str, settings: Settings) -> None:
    end_by_deadline(settings.grace_s)
    tracing.set_up_tracing(role)
    keep_freed_memory()
    sys.setswitchinterval(_SWITCH_S)
