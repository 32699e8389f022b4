"""Exports: what they read stays until they end, they need no change of the catalog, and they end without a trace."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.fault.rooms import assert_known
from tests.support.faults import Wrapped

from wherry.errors import NotFound, StoreUnavailable, Unavailable
from wherry.server.actions import delete
from wherry.server.http import exports as exports_module
from wherry.server.http import make_app
from wherry.server.http.exports import ExportLimits, Exports
from wherry.server.rules.tokens import token_digest
from wherry.server.storage import Keyring, MemoryBackend, Store
from wherry.server.storage.backends.sealed import Sealed
from wherry.server.storage.keyring import Key
from wherry.server.upkeep.reads import Reads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import ASGIApp, Message
    from tests.fault.rooms import Rooms

    from wherry.server.catalog import Catalog, Reader
    from wherry.server.rules.records import ReplicaRecord
    from wherry.server.storage import Manifest

    Build = Callable[..., Rooms]

SECRET = "dop_v1_exports"
DEADLINE_S = 20.0


def web_face(rooms: Rooms, limits: ExportLimits | None = None) -> ASGIApp:
    """The web face of the rooms, with a token for exports."""
    with rooms.catalog.begin() as tx:
        tx.add_token(1, "exports", token_digest(SECRET), ("image:read",))
    return make_app(replace(rooms.service, exports=Exports(limits or ExportLimits())))


def export(app: ASGIApp, image_id: int, method: str = "GET") -> httpx2.Response:
    """Ask for an image's bytes."""

    async def answer() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
            headers = {"authorization": f"Bearer {SECRET}"}
            return await client.request(method, f"/v2/images/{image_id}/export", headers=headers)

    return asyncio.run(answer())


class Client:
    """A client of an export that takes so many messages and then does something, at the door of the web server."""

    def __init__(self, app: ASGIApp, image_id: int, takes: int, what: str = "export") -> None:
        self.messages: list[Message] = []
        self.stopped = asyncio.Event()  # it takes no more
        self.goes_on = asyncio.Event()
        self._takes = takes
        self._gone = asyncio.Event()
        path = f"/v2/images/{image_id}/{what}"
        self._scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {SECRET}".encode())], "scheme": "http",
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 1), "http_version": "1.1", "extensions": {},
        }  # fmt: skip
        self._app = app

    def begin(self) -> asyncio.Task[None]:
        return asyncio.ensure_future(self._app(self._scope, self._receive, self._send))

    def hang_up(self) -> None:
        self._gone.set()
        self.goes_on.set()

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if len(self.messages) >= self._takes:
            self.stopped.set()
            await self.goes_on.wait()
        self.messages.append(message)


def is_free(rooms: Rooms, image_id: int) -> bool:
    """Whether a deleted image leaves nothing behind: it is read by no export."""
    rooms.actions.delete(1, image_id)
    rooms.engine.run()
    return rooms.findings() == [] and rooms.objects("nyc3") == set()


def replica_of(image_id: int) -> Callable[[Reader], ReplicaRecord]:
    def find(reader: Reader) -> ReplicaRecord:
        replica = reader.replica(image_id, "nyc3")
        if replica is None:
            raise NotFound("It is gone.")
        return replica

    return find


@contextmanager
def read_only(catalog: Catalog) -> Iterator[None]:
    """A catalog that refuses every change, as one on a full disk or a read-only file system."""

    @contextmanager
    def refuse(by: object = None) -> Iterator[None]:
        raise Unavailable("The catalog can't be changed now.")
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "begin", refuse)
        yield


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_export_needs_no_change_of_the_catalog(build: Build, disk: bytes, method: str) -> None:
    """It is sent whole where the catalog can only be read, and keeps nothing afterwards."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    app = web_face(rooms)
    with read_only(rooms.catalog):
        sent = export(app, image_id, method)
    assert (sent.status_code, sent.content) == (200, disk if method == "GET" else b"")
    assert is_free(rooms, image_id)


@pytest.mark.parametrize("is_collected_meanwhile", [True, False])
def test_an_image_that_is_deleted_while_it_is_exported(
    build: Build, disk: bytes, *, is_collected_meanwhile: bool
) -> None:
    """It is sent whole; its bytes go after that."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    app = web_face(rooms)

    async def act() -> bytes:
        client = Client(app, image_id, takes=3)
        going = client.begin()
        await client.stopped.wait()
        rooms.actions.delete(1, image_id)
        if is_collected_meanwhile:
            rooms.engine.run()
            assert_known(rooms)
        client.goes_on.set()
        await going
        return b"".join(bytes(one["body"]) for one in client.messages[1:])

    assert asyncio.run(act()) == disk
    rooms.engine.run()
    rooms.actions.scheduler.tick()  # the end of the export let go of it, without a collect of its own
    rooms.engine.run()
    assert rooms.objects("nyc3") == set()


@pytest.mark.parametrize("takes", [0, 1, 2, 5])
@pytest.mark.parametrize("how", ["hangs up", "is cancelled"])
@pytest.mark.parametrize("what", ["export", "blocks/0-4"])
def test_a_client_that_breaks_off(build: Build, disk: bytes, what: str, how: str, takes: int) -> None:
    """Before the first byte or at any time after it: the image is let go of."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    app = web_face(rooms)

    async def act() -> None:
        client = Client(app, image_id, takes, what)
        going = client.begin()
        await client.stopped.wait()
        if how == "hangs up":
            client.hang_up()
        else:
            going.cancel()
        await asyncio.wait((going,))

    asyncio.run(act())
    assert is_free(rooms, image_id)


def test_blocks_of_an_encrypted_region_come_open(build: Build, disk: bytes) -> None:
    """They are sealed in the store, and the records are those of a region that is not encrypted; the image is free."""
    sealed = Sealed(MemoryBackend(), Keyring((Key("now", b"\x01" * 32),)))
    sent: list[bytes] = []
    for rooms in (build(), build(nyc3=sealed)):
        image_id, app = rooms.import_disk(disk), web_face(rooms)

        async def act(app: ASGIApp = app, image_id: int = image_id) -> bytes:
            client = Client(app, image_id, 1000, "blocks/0-4")
            await client.begin()
            return b"".join(bytes(message["body"]) for message in client.messages[1:])

        sent.append(asyncio.run(act()))
        assert is_free(rooms, image_id)
    assert sent[0] == sent[1]
    assert sent[0].startswith(b"WBLK")


def test_a_cancellation_while_an_export_is_prepared(build: Build, disk: bytes) -> None:
    """The thread that prepares it can't be stopped; what it kept is let go of after it."""

    class Slow(Wrapped):
        begun, go_on = threading.Event(), threading.Event()

        def size(self, key: str) -> int | None:
            if key.startswith("manifests/"):
                self.begun.set()
                assert self.go_on.wait(DEADLINE_S)
            return super().size(key)

    slow = Slow(MemoryBackend())
    slow.go_on.set()
    rooms = build(nyc3=slow)
    image_id = rooms.import_disk(disk)
    app = web_face(rooms)
    slow.begun.clear()
    slow.go_on.clear()

    async def act() -> None:
        going = Client(app, image_id, 0).begin()
        assert await asyncio.to_thread(slow.begun.wait, DEADLINE_S)
        going.cancel()
        await asyncio.sleep(0)
        assert not going.done()
        slow.go_on.set()
        await asyncio.wait((going,))

    asyncio.run(act())
    assert is_free(rooms, image_id)


def test_the_garbage_collector_comes_in_a_transaction(build: Build, disk: bytes) -> None:
    """What exports that were broken off left behind is cleaned up there, and nobody waits for anything."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    app = web_face(rooms)

    async def break_off() -> None:
        clients = [Client(app, image_id, takes) for takes in range(8)]
        for client in clients:
            going = client.begin()
            await client.stopped.wait()
            if client is clients[-1]:
                del going  # it is left where it is, as by a server that stops
            else:
                client.hang_up()
                await going

    def collect_garbage() -> None:
        with rooms.catalog.begin():
            gc.collect()

    gc.disable()
    try:
        asyncio.run(break_off())
        thread = threading.Thread(target=collect_garbage, daemon=True)
        thread.start()
        thread.join(DEADLINE_S)
    finally:
        gc.enable()
    assert not thread.is_alive()
    assert is_free(rooms, image_id)


# ------------------------------------------------------------------------------------------- reads against decisions


def test_a_read_that_begins_while_a_collect_decides(build: Build, disk: bytes) -> None:
    """It waits for the decision's end before it believes what the catalog says: it finds the image or nothing."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    reads, outcome = rooms.actions.reads, list[BaseException]()
    found = threading.Event()

    def find(reader: Reader) -> ReplicaRecord:
        replica = replica_of(image_id)(reader)
        found.set()
        return replica

    def begin() -> None:
        try:
            reads.begin(find)
        except NotFound as error:
            outcome.append(error)

    reader = threading.Thread(target=begin, daemon=True)
    with reads.deciding() as tx:  # a delete and the decision may share one commit
        reader.start()
        assert found.wait(DEADLINE_S)
        delete.accept(tx, 1, image_id)
        tx.condemn(tx.loose(None, 100))
        reader.join(0.05)
        assert reader.is_alive()
    reader.join(DEADLINE_S)
    assert [type(error) for error in outcome] == [NotFound]
    assert rooms.findings() == []


def test_a_read_is_known_to_a_decision_that_begins_after_it(build: Build, disk: bytes) -> None:
    """The decision writes it down; once it has ended, the next sweep lets go of it."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    reads = rooms.actions.reads
    kept = [reads.begin(replica_of(image_id)) for _ in range(2)]
    for one in kept:
        rooms.actions.delete(1, image_id) if one is kept[0] else None
        rooms.engine.run()
        reads.sweep()
        assert rooms.objects("nyc3") != set()
        reads.end(one.manifest_id)
    reads.sweep()
    rooms.actions.scheduler.tick()
    rooms.engine.run()
    assert rooms.objects("nyc3") == set()


def rows(rooms: Rooms) -> int:
    """How many reads have a row."""
    with rooms.catalog.read() as reader:
        return int(reader.connection.exec_driver_sql("SELECT count(*) FROM reads").scalar_one())


def test_reads_among_several_processes(build: Build, disk: bytes) -> None:
    """A read has its row before it goes on; another read of the same disk needs none, and their ends share a change."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    reads = Reads(rooms.catalog, lambda: rooms.engine.process_id, is_shared=True)
    first = reads.begin(replica_of(image_id))
    assert rows(rooms) == 1
    with read_only(rooms.catalog):
        reads.begin(replica_of(image_id))
        for _ in range(2):
            reads.end(first.manifest_id)
        reads.sweep()  # the catalog does not take it now
    assert rows(rooms) == 1
    with read_only(rooms.catalog):
        reads.begin(replica_of(image_id))  # its row is still there
    reads.sweep()
    assert rows(rooms) == 1
    reads.end(first.manifest_id)
    reads.sweep()
    assert rows(rooms) == 0
    with read_only(rooms.catalog), pytest.raises(Unavailable):
        reads.begin(replica_of(image_id))
    reads.sweep()
    assert is_free(rooms, image_id)


def test_a_process_that_was_taken_for_dead_writes_its_reads_again(build: Build, disk: bytes) -> None:
    """Its rows went with it; as the process that it is now it begins anew."""
    rooms = build()
    image_id, other = rooms.import_disk(disk), rooms.import_disk(disk[: 1 << 20] + b"other")
    process_id = rooms.engine.process_id
    assert process_id is not None
    reads = Reads(rooms.catalog, lambda: process_id, is_shared=True)
    reads.begin(replica_of(image_id))
    with rooms.catalog.begin() as tx:
        tx.remove_process(process_id)
    with pytest.raises(Unavailable, match="dead"):
        reads.begin(replica_of(other))
    with rooms.catalog.begin() as tx:
        process_id = tx.add_process("again", 1)
    reads.sweep()
    assert rows(rooms) == 1
    reads.begin(replica_of(other))
    assert rows(rooms) == 2


# -------------------------------------------------------------------------------------------------------------- limits


def test_so_many_exports_at_a_time(build: Build, disk: bytes) -> None:
    """One more is refused with 429, and begins once another has ended."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    app = web_face(rooms, ExportLimits(most=2))

    async def act() -> list[int]:
        clients = [Client(app, image_id, takes=1) for _ in range(2)]
        going = [client.begin() for client in clients]
        for client in clients:
            await client.stopped.wait()
        refused = Client(app, image_id, takes=9)
        await refused.begin()
        clients[0].hang_up()
        await going[0]
        later = Client(app, image_id, takes=1000)
        await later.begin()
        clients[1].hang_up()
        await going[1]
        return [refused.status, later.status]

    assert asyncio.run(act()) == [429, 200]
    assert is_free(rooms, image_id)


def test_a_reader_that_stalls_is_given_up(build: Build, disk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is dropped with what it did not take, and its image is let go of."""
    monkeypatch.setattr(exports_module, "_WINDOW_S", 0.2)
    rooms = build()
    image_id = rooms.import_disk(disk)
    app = web_face(rooms, ExportLimits(slowest_bytes_s=64 << 20))
    dropped: list[Any] = []

    async def act() -> None:
        client = Client(app, image_id, takes=3)
        client._scope["extensions"] = {"wherry.abort": lambda: dropped.append(True)}
        await asyncio.wait_for(client.begin(), DEADLINE_S)

    asyncio.run(act())
    assert dropped == [True]
    assert is_free(rooms, image_id)


def test_nothing_is_read_ahead_for_a_reader_that_takes_nothing(
    build: Build, disk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All exports together read few blocks ahead, and those that stall let go of them; nothing is missing later."""
    monkeypatch.setattr(exports_module, "_STALLED_S", 0.01)
    monkeypatch.setattr(exports_module, "_READ_AHEAD_BLOCKS", 4)
    rooms = build()
    image_id = rooms.import_disk(disk)
    app = web_face(rooms)
    read: list[int] = []
    read_block = Store.read_block

    def counted(store: Store, *arguments: Any) -> bytes:
        read.append(1)
        return read_block(store, *arguments)

    monkeypatch.setattr(Store, "read_block", counted)

    async def act() -> list[bytes]:
        clients = [Client(app, image_id, takes=2) for _ in range(10)]
        going = [client.begin() for client in clients]
        for client in clients:
            await client.stopped.wait()
        before = len(read)
        assert before <= 2 * len(clients) + 4
        for client in clients:
            client.goes_on.set()
        await asyncio.gather(*going)
        return [b"".join(bytes(one["body"]) for one in client.messages[1:]) for client in clients]

    assert asyncio.run(act()) == [disk] * 10


def test_a_store_that_fails_on_the_way(build: Build, disk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is before the block is sent, the connection is broken off, and the image let go of."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    app = web_face(rooms)
    read_block = Store.read_block

    def failing(store: Store, manifest: Manifest, place: int, *arguments: Any) -> bytes:
        if place == manifest.first_place(3):  # others, before and after it, are read at the same time
            raise StoreUnavailable("It is away.")
        return read_block(store, manifest, place, *arguments)

    async def act() -> list[Message]:
        client = Client(app, image_id, takes=1000)
        await client.begin()
        return client.messages

    with monkeypatch.context() as patch:
        patch.setattr(Store, "read_block", failing)
        messages = asyncio.run(act())
    assert messages[0]["status"] == 200
    assert b"".join(bytes(message["body"]) for message in messages[1:]) == disk[: 3 << 20]
    assert all(message["more_body"] for message in messages[1:])
    assert is_free(rooms, image_id)
