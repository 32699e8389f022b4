"""What the backend over buckets promises beyond the common contract, shown on an S3 server and a proxy that meddles."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from obstore.store import MemoryStore
from tests.contract.test_backend import get, put
from tests.support.buckets import ENVIRON, Buckets, Meddler
from tests.support.faults import Torn, Wrapped
from tests.unit.server.storage.test_store import Caller, import_disk, noise, read_disk, transfer

from wherry.errors import (
    BlockCorrupt,
    BlockMissing,
    ManifestCorrupt,
    StorageError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from wherry.server.regions.probe import probe
from wherry.server.storage import LocalBackend, MemoryBackend, ObjectStoreBackend, Store, StoreOptions, open_store
from wherry.server.storage.backends import check_same_size
from wherry.server.storage.backends.object_store import open_bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.storage import Backend, Manifest, Upload

KEY = "packs/ab/abcd"


@pytest.fixture
def meddler(buckets: Buckets) -> Iterator[Meddler]:
    with Meddler(buckets.url) as meddler:
        yield meddler


@pytest.fixture
def backend(buckets: Buckets, meddler: Meddler) -> ObjectStoreBackend:
    """A backend by way of the proxy."""
    return buckets.backend(endpoint=meddler.url)


# ------------------------------------------------------------------------------------------------ bytes on their way


@pytest.mark.parametrize("opaque", [False, True])
def test_bytes_that_change_on_the_way_are_noticed(backend: ObjectStoreBackend, meddler: Meddler, opaque: bool) -> None:  # noqa: FBT001
    """A put whose bytes arrive changed fails, whatever the store's ETag says; tried again, it succeeds."""
    meddler.opaque, meddler.flip_put = opaque, True
    with pytest.raises(StoreUnavailable, match=f"{KEY} came to s3://.* with other bytes"):
        put(backend, KEY, b"some data")
    meddler.flip_put = False
    assert backend.size(KEY) is None
    put(backend, KEY, b"some data")
    assert get(backend, KEY, 0, 9) == b"some data"


def test_without_the_comparison_they_would_not_be(
    backend: ObjectStoreBackend, meddler: Meddler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: nothing else notices it, neither the store nor the library."""
    monkeypatch.setattr(ObjectStoreBackend, "_check_arrived", lambda *_: None)
    meddler.flip_put = True
    put(backend, KEY, b"some data")
    assert get(backend, KEY, 0, 9) != b"some data"


def test_an_etag_that_is_the_md5_costs_no_request(backend: ObjectStoreBackend, meddler: Meddler) -> None:
    """A put is one request where the ETag proves the bytes, and two where they are read back."""
    put(backend, KEY, b"some data")
    assert [asked.split()[0] for asked in meddler.asked] == ["PUT"]
    meddler.opaque = True
    put(backend, KEY + "e", b"some data")
    assert [asked.split()[0] for asked in meddler.asked] == ["PUT", "PUT", "GET"]


def test_a_lost_answer_is_made_good_by_the_next_attempt(backend: ObjectStoreBackend, meddler: Meddler) -> None:
    """A put that was done, but whose answer was lost, fails; tried again, it finds its object and succeeds."""
    meddler.lose_answer = True
    with pytest.raises(StoreUnavailable, match=KEY):
        put(backend, KEY, b"some data")
    meddler.lose_answer = False
    put(backend, KEY, b"some data")
    assert get(backend, KEY, 0, 9) == b"some data"


@pytest.mark.parametrize("opaque", [False, True])
def test_a_damaged_object_is_not_taken_for_good(backend: ObjectStoreBackend, meddler: Meddler, opaque: bool) -> None:  # noqa: FBT001
    """Where the bytes changed and the answer was lost as well, the next attempt sees it."""
    meddler.opaque = opaque
    meddler.flip_put = meddler.lose_answer = True
    with pytest.raises(StoreUnavailable):
        put(backend, KEY, b"some data")
    meddler.flip_put = meddler.lose_answer = False
    with pytest.raises(BlockCorrupt, match=f"{KEY} is there with other bytes"):
        put(backend, KEY, b"some data")


def test_a_put_that_others_undo_may_be_tried_again(backend: ObjectStoreBackend, meddler: Meddler) -> None:
    """A conflict with a put that then is not there is no success."""
    meddler.refuse = 409, b"<Error><Code>ConditionalRequestConflict</Code></Error>"
    with pytest.raises(StoreUnavailable, match=KEY):
        put(backend, KEY, b"some data")


def test_an_answer_that_ends_too_early_is_an_error(backend: ObjectStoreBackend, meddler: Meddler) -> None:
    """A connection that breaks within an answer never gives a short one."""
    put(backend, KEY, b"some data")
    meddler.cut_get = True
    with pytest.raises(StoreUnavailable, match=f"read {KEY} in s3://.*broke"):
        get(backend, KEY, 0, 9)


# ----------------------------------------------------------------------------------------------------------- errors

# An odd number of blocks, so that a bit in the middle of a read lies in one and not in a header between two.
DISK = noise(1, 3 << 20)
LEAK = b"<Error><Code>%s</Code><Message>AKIAMADEUP said\nmade-up-secret</Message><StringToSign>x</StringToSign></Error>"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (301, b"PermanentRedirect", StorageError), (400, b"InvalidRequest", StoreRefused),
        (400, b"BadDigest", StoreUnavailable), (400, b"RequestTimeout", StoreUnavailable),
        (401, b"Unauthorized", StoreRefused), (403, b"SignatureDoesNotMatch", StoreRefused),
        (404, b"NoSuchBucket", StoreRefused), (404, b"ContainerNotFound", StoreRefused),
        (429, b"SlowDown", StoreUnavailable), (500, b"InternalError", StoreUnavailable),
        (503, b"ServiceUnavailable", StoreUnavailable), (507, b"XMinioStorageFull", StoreFull),
    ],
)  # fmt: skip
def test_errors_by_what_the_store_answers(
    backend: ObjectStoreBackend, meddler: Meddler, status: int, code: bytes, kind: type[StorageError]
) -> None:
    """Each refusal becomes the error that fits, in every call, in one line with the key and without the reply."""
    meddler.refuse = status, LEAK % code
    calls: list[Callable[[], object]] = [
        lambda: put(backend, KEY, b"data"), lambda: get(backend, KEY, 0, 1), lambda: backend.size(KEY),
        lambda: list(backend.list("packs/")), lambda: backend.delete(KEY),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(kind) as caught:
            call()
        said = caught.value.message
        assert "packs/" in said
        assert "\n" not in said
        assert not any(secret in said for secret in ("AKIA", "made-up", "StringToSign"))
        # A log with the library's error would quote the reply.
        assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)


def test_a_store_that_refuses_says_why(backend: ObjectStoreBackend, meddler: Meddler) -> None:
    """The message has the status, and the word that the provider has for it."""
    meddler.refuse = 403, LEAK % b"InvalidAccessKeyId"
    with pytest.raises(StoreRefused, match=r"403 Forbidden \(InvalidAccessKeyId\)$") as caught:
        get(backend, KEY, 0, 1)
    assert (caught.value.id, caught.value.retryable) == ("store_refused", False)
    assert "wherry regions check" in caught.value.hint


def test_a_put_that_finds_nothing_is_refused(backend: ObjectStoreBackend, meddler: Meddler) -> None:
    """Whoever answers a put or a listing with a bare 404 is no store; to a read, it says that there is no object."""
    meddler.refuse = 404, b"<html>no such page</html>"
    with pytest.raises(StoreRefused, match="404 Not Found$"):
        put(backend, KEY, b"data")
    with pytest.raises(StoreRefused, match="404 Not Found$"):
        list(backend.list(""))
    with pytest.raises(BlockMissing, match=f"{KEY} is not in s3://"):
        get(backend, KEY, 0, 1)
    assert backend.size(KEY) is None


def test_a_store_that_ignores_ranges_is_refused(backend: ObjectStoreBackend, meddler: Meddler) -> None:
    """Whoever answers a ranged get with everything can't be used."""
    meddler.refuse = 200, b"everything"
    with pytest.raises(StoreRefused, match="non-partial"):
        get(backend, KEY, 3, 1)


def test_silence_ends(buckets: Buckets, meddler: Meddler) -> None:
    """A store that does not answer is out of reach after the time that was set; a put is not sent twice meanwhile."""
    backend = buckets.backend(endpoint=meddler.url, timeout_s=0.3, retries=3)
    meddler.silent.set()
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        put(backend, KEY, b"data")
    assert len(meddler.asked) == 1
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        get(backend, KEY, 0, 1)
    assert len(meddler.asked) == 2  # the time for retries was over by then


def test_a_store_that_is_not_there_is_unavailable(buckets: Buckets) -> None:
    """Nobody listens: that may pass."""
    with pytest.raises(StoreUnavailable, match="no connection") as caught:
        get(buckets.backend(endpoint="http://127.0.0.1:9"), KEY, 0, 1)
    assert caught.value.retryable


def test_a_fault_of_the_server_is_tried_again(buckets: Buckets, meddler: Meddler) -> None:
    """Retries are bounded by their number."""
    meddler.refuse = 503, b""
    with pytest.raises(StoreUnavailable):
        get(buckets.backend(endpoint=meddler.url, retries=2), KEY, 0, 1)
    assert len(meddler.asked) == 3


def test_no_more_is_asked_of_a_store_than_it_must_know(backend: ObjectStoreBackend, meddler: Meddler) -> None:
    """Create-only put, ranged get, list and delete: no head, no bulk delete, no multipart, no If-Match."""
    put(backend, KEY, noise(1, 6 << 20))
    put(backend, KEY, noise(1, 6 << 20))
    assert backend.size(KEY) == 6 << 20
    get(backend, KEY, 1, 100)
    list(backend.list("packs/"))
    backend.delete(KEY)
    backend.sweep_unfinished()
    assert {asked.split()[0] for asked in meddler.asked} == {"PUT", "GET", "DELETE"}
    assert not any("uploads" in asked for asked in meddler.asked)
    assert not any("if-match" in headers for headers in meddler.headers)
    assert all(
        headers.get("if-none-match") == "*"
        for asked, headers in zip(meddler.asked, meddler.headers, strict=True)
        if asked.startswith("PUT")
    )


# ---------------------------------------------------------------------------------------------- copies in the store


def test_copy_within_a_bucket(buckets: Buckets, meddler: Meddler) -> None:
    """An object is copied to another prefix without its bytes passing through here, and not over one that is there."""
    source, target = buckets.backend(endpoint=meddler.url), buckets.backend(endpoint=meddler.url)
    put(source, KEY, b"some data")
    meddler.flip_put = meddler.flip_get = True  # would show if the bytes came by
    assert target.copy_from(source, KEY, "packs/cd/cdef")
    assert target.copy_from(source, KEY, "packs/cd/cdef")
    meddler.flip_put = meddler.flip_get = False
    assert get(target, "packs/cd/cdef", 0, 9) == b"some data"
    put(source, "packs/ef/ef", b"other")
    with pytest.raises(BlockCorrupt, match=r"9 bytes.*has 5"):
        target.copy_from(source, "packs/ef/ef", "packs/cd/cdef")
    with pytest.raises(BlockMissing, match="packs/nothing is not in s3://"):
        target.copy_from(source, "packs/nothing", "packs/cd/other")


def test_copy_where_it_can_not_be_done(buckets: Buckets, backend: ObjectStoreBackend, meddler: Meddler) -> None:
    """From another kind of store, another bucket or endpoint, or where it is forbidden, the bytes must be carried."""
    for source in (MemoryBackend(), buckets.backend(), buckets.backend("s3://others/images", endpoint=meddler.url)):
        assert not backend.copy_from(source, KEY, KEY)
    source = _Known(buckets.backend(endpoint=meddler.url), meddler)
    put(source, KEY, b"some data")
    assert not backend.copy_from(source, KEY, KEY)


class _Known(ObjectStoreBackend):
    """A source that is readable, in a bucket where copies are forbidden from then on."""

    def __init__(self, inner: ObjectStoreBackend, meddler: Meddler) -> None:
        self.__dict__.update(inner.__dict__)
        self._meddler = meddler

    def size(self, key: str) -> int | None:
        size = super().size(key)
        self._meddler.refuse = 403, LEAK % b"AccessDenied"
        return size


def test_copy_in_the_librarys_memory() -> None:
    """The common door of the library copies create-only, too."""
    memory = MemoryStore()
    source = ObjectStoreBackend(memory, "one", name="one", bucket="memory")
    target = ObjectStoreBackend(memory, "two", name="two", bucket="memory")
    put(source, KEY, b"some data")
    assert target.copy_from(source, KEY, KEY)
    assert get(target, KEY, 0, 9) == b"some data"


# -------------------------------------------------------------------------------------------------------- opening


def test_variables_of_a_prefix_are_not_mixed_with_the_providers(
    buckets: Buckets, meddler: Meddler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are signed by the key that was named, without the session of another."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{name}", "anothers")
    put(buckets.backend(endpoint=meddler.url), KEY, b"data")
    assert "Credential=AKIAMADEUP/" in meddler.headers[0]["authorization"]
    assert "x-amz-security-token" not in meddler.headers[0]


def test_the_providers_variables_count_without_a_prefix(
    buckets: Buckets, meddler: Meddler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every program of the provider reads them."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{name}", "the-providers")
    backend = open_store(buckets.new_url(), StoreOptions(endpoint=meddler.url)).backend
    put(backend, KEY, b"data")
    assert "Credential=the-providers/" in meddler.headers[0]["authorization"]
    assert meddler.headers[0]["x-amz-security-token"] == "the-providers"


@pytest.mark.parametrize(
    ("url", "environ", "wanted"),
    [
        ("s3://bucket", {}, "TEST_ACCESS_KEY_ID"),
        ("s3://bucket", {"TEST_ACCESS_KEY_ID": "AKIA"}, "TEST_SECRET_ACCESS_KEY"),
        ("gs://bucket", {}, "TEST_SERVICE_ACCOUNT_KEY or TEST_SERVICE_ACCOUNT"),
        ("gs://bucket", {"TEST_SERVICE_ACCOUNT_KEY": "{no json"}, "can't be opened"),
        ("gs://bucket", {"TEST_SERVICE_ACCOUNT": "/no/such/file"}, "can't be opened"),
        ("az://container", {}, "TEST_ACCOUNT_NAME"),
        ("az://container", {"TEST_ACCOUNT_NAME": "we"}, "TEST_ACCOUNT_KEY or TEST_SAS_KEY"),
        ("az://container", {"TEST_ACCOUNT_NAME": "we", "TEST_ACCOUNT_KEY": "!no base64"}, "can't be opened"),
        ("s3://AKIA:made-up-secret@bucket", ENVIRON, "without credentials"),
        ("s3://bucket?secret=made-up-secret", ENVIRON, "without credentials"),
        ("s3:///bucket", ENVIRON, "s3://BUCKET/PREFIX"),
    ],
)
def test_a_store_that_can_not_be_opened(url: str, environ: dict[str, str], wanted: str) -> None:
    """What is missing or wrong is named when a store is opened, and no secret with it."""
    with pytest.raises(StoreRefused, match=wanted) as caught:
        open_bucket(url, StoreOptions(credentials="TEST"), environ)
    assert "made-up-secret" not in caught.value.message
    assert "no json" not in caught.value.message


def test_gcs_and_azure_open() -> None:
    """Both are opened by the same door; nothing is asked of them yet."""
    azure = {"TEST_ACCOUNT_NAME": "we", "TEST_SAS_KEY": "sv=1&sig=made-up-secret"}
    one = open_bucket("az://container/a", StoreOptions(credentials="TEST", endpoint="http://127.0.0.1:9"), azure)
    with pytest.raises(StoreUnavailable, match="no connection") as caught:
        put(one, KEY, b"data")
    assert "made-up-secret" not in caught.value.message
    google = {"TEST_SERVICE_ACCOUNT_KEY": '{"gcs_base_url": "http://127.0.0.1:9", "disable_oauth": true, '
              '"client_email": "", "private_key": "", "private_key_id": ""}'}  # fmt: skip
    two = open_bucket("gs://bucket/a", StoreOptions(credentials="TEST", endpoint="http://127.0.0.1:9"), google)
    with pytest.raises(StoreUnavailable, match="no connection"):
        put(two, KEY, b"data")


# ----------------------------------------------------------------------------------- what imports and transfers notice


def stored(backend: Backend, data: bytes) -> Manifest:
    """Import a disk; answers its manifest as it reads back."""
    store = Store(backend)
    return store.read_manifest(store.write_manifest(import_disk(store, data), Caller()))


def test_a_disk_travels_between_buckets(buckets: Buckets) -> None:
    """What is imported into one bucket and transferred to another reads back there."""
    data = noise(1, 3 << 20)
    source, target = Store(buckets.backend()), Store(buckets.backend())
    there = transfer(source, target, stored(source.backend, data))
    assert read_disk(target, target.read_manifest(target.write_manifest(there, Caller()))) == data


@pytest.mark.parametrize("fault", ["flip_put", "lose_answer", "silent", "refuse"])
def test_an_import_notices_what_goes_wrong_on_the_way(buckets: Buckets, meddler: Meddler, fault: str) -> None:
    """Bytes that change, answers that are lost, late or refusals: the import fails, and nothing bad is published."""
    backend = buckets.backend(endpoint=meddler.url, timeout_s=1)
    set_fault(meddler, fault)
    with pytest.raises(StoreUnavailable):
        stored(backend, DISK)
    meddler.flip_put = meddler.lose_answer = False
    meddler.refuse = None
    meddler.silent.clear()
    manifest = stored(backend, DISK)
    assert list(Store(backend).faults(manifest, deep=True)) == []


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ("flip_get", (BlockCorrupt,)), ("cut_get", (StoreUnavailable,)), ("silent", (StoreUnavailable,)),
        ("refuse", (StoreUnavailable,)),
    ],
)  # fmt: skip
def test_a_transfer_notices_what_goes_wrong_at_its_source(
    buckets: Buckets, meddler: Meddler, fault: str, kinds: tuple[type[StorageError], ...]
) -> None:
    """A transfer takes over nothing that does not hash to its name, and publishes nothing then."""
    source = buckets.backend(endpoint=meddler.url, timeout_s=1)
    manifest = stored(source, DISK)
    target = MemoryBackend()
    set_fault(meddler, fault)
    with pytest.raises(kinds):
        transfer(Store(source), Store(target), manifest)
    assert target.objects == {}


@pytest.mark.parametrize("fault", ["flip_put", "lose_answer", "silent", "refuse"])
def test_a_transfer_notices_what_goes_wrong_at_its_target(buckets: Buckets, meddler: Meddler, fault: str) -> None:
    """A transfer never counts a pack as there that is not, or not as it was sent."""
    source, target = MemoryBackend(), buckets.backend(endpoint=meddler.url, timeout_s=1)
    manifest = stored(source, DISK)
    set_fault(meddler, fault)
    with pytest.raises(StoreUnavailable):
        transfer(Store(source), Store(target), manifest)


def test_a_put_that_a_store_forgets_is_found_by_whoever_reads(buckets: Buckets, meddler: Meddler) -> None:
    """A store that acknowledges a put and keeps nothing is believed then, and found out by the first who reads."""
    backend = buckets.backend(endpoint=meddler.url)
    meddler.lose_put = True
    manifest = import_disk(Store(backend), DISK)
    with pytest.raises(BlockMissing):
        transfer(Store(backend), Store(MemoryBackend()), manifest)
    assert [type(fault) for fault in Store(backend).faults(manifest, deep=False)] == [BlockMissing]


def test_a_put_that_a_store_forgets_is_found_where_it_is_read_back(
    backend: ObjectStoreBackend, meddler: Meddler
) -> None:
    """Where the ETag proves nothing, the put itself notices."""
    meddler.lose_put = meddler.opaque = True
    with pytest.raises(StoreRefused, match=f"can't read back {KEY} .*404"):
        put(backend, KEY, b"some data")


@pytest.mark.parametrize("fault", ["flip_read", "flip_write", "cut_write"])
def test_bytes_that_change_in_the_store_are_found_by_whoever_reads(buckets: Buckets, fault: str) -> None:
    """Whatever a store makes of bytes after they arrived whole: no read and no transfer takes them for the block."""
    torn = Torn(buckets.backend(), **{fault: fault != "flip_read"})
    manifest = import_disk(Store(torn), DISK)
    torn.flip_read = fault == "flip_read"
    with pytest.raises((BlockCorrupt, BlockMissing, ManifestCorrupt)):
        read_disk(Store(torn), manifest)
    target = MemoryBackend()
    with pytest.raises((BlockCorrupt, BlockMissing, ManifestCorrupt)):
        transfer(Store(torn), Store(target), manifest)
    assert target.objects == {}


def set_fault(meddler: Meddler, fault: str) -> None:
    if fault == "silent":
        meddler.silent.set()
    elif fault == "refuse":
        meddler.refuse = 503, b""
    else:
        setattr(meddler, fault, True)


# ----------------------------------------------------------------------------------------- a store that dies and lives


class LocalBucket:
    """localbucket in a process of its own, on files; it can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "localbucket", str(self._folder), "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until_listening(self.port)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


def wait_until_listening(port: int) -> None:
    wait = threading.Event()
    for _ in range(400):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
            return
        wait.wait(0.025)
    raise AssertionError(f"nobody listens on port {port}")


@pytest.fixture
def local_bucket(tmp_path: Path) -> Iterator[LocalBucket]:
    (tmp_path / Buckets.bucket).mkdir()
    store = LocalBucket(tmp_path)
    store.start()
    yield store
    store.kill()


def test_what_was_put_outlives_the_store(local_bucket: LocalBucket) -> None:
    """A store that is killed after a put has the object whole when it is back; meanwhile it is unavailable."""
    buckets = Buckets(local_bucket.url)
    backend = buckets.backend(timeout_s=5)
    data = noise(1, 3 << 20)
    manifest = stored(backend, data)
    local_bucket.kill()
    with pytest.raises(StoreUnavailable):
        read_disk(Store(backend), manifest)
    with pytest.raises(StoreUnavailable):
        import_disk(Store(backend), data)
    local_bucket.start()
    assert read_disk(Store(backend), manifest) == data
    assert list(Store(backend).faults(manifest, deep=True)) == []


def test_a_store_that_dies_during_puts_has_whole_objects_only(local_bucket: LocalBucket) -> None:
    """Killed in the middle of many puts, a store has each object whole or not at all, and every acknowledged one."""
    backend = Buckets(local_bucket.url).backend(timeout_s=5)
    done: list[int] = []
    enough = threading.Event()

    def write() -> None:
        with contextlib.suppress(StoreUnavailable):
            for number in range(1000):
                put(backend, f"packs/{number}", noise(number, 200_000))
                done.append(number)
                if number == 20:
                    enough.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert enough.wait(60)
    local_bucket.kill()
    writer.join(60)
    local_bucket.start()
    there = dict(backend.list("packs/"))
    assert len(done) < 1000
    assert {f"packs/{number}" for number in done} <= set(there)
    for key, size in there.items():
        number = int(key.partition("/")[2])
        assert (size, get(backend, key, 0, size)) == (200_000, noise(number, 200_000))


# ------------------------------------------------------------------------------------------------- proving a store


def faults_of(backend: Backend) -> dict[str, str]:
    return {one.name: one.fault for one in probe(backend, 300_000) if one.fault is not None}


def test_a_store_that_keeps_its_word_passes(buckets: Buckets, tmp_path: Path) -> None:
    """Every probe is well, and nothing is left behind."""
    for backend in (buckets.backend(), MemoryBackend(), LocalBackend(tmp_path)):
        assert [(one.name, one.fault) for one in probe(backend, 300_000)] == [
            (name, None) for name in ("write", "read whole", "read a range", "size", "list", "create-only put",
                                      "racing puts", "delete", "clean up")
        ]  # fmt: skip
        assert list(backend.list("")) == []


def test_a_store_without_conditional_puts_is_found_out(backend: ObjectStoreBackend, meddler: Meddler) -> None:
    """A store that ignores If-None-Match fails both probes that are about it."""
    meddler.unconditional = True
    assert set(faults_of(backend)) == {"create-only put", "racing puts"}


class Liar(Wrapped):
    """A backend that breaks one promise."""

    def __init__(self, lie: str) -> None:
        super().__init__(memory := MemoryBackend())
        self._objects = memory.objects
        self._lie = lie

    def read(self, key: str, offset: int, into: memoryview) -> None:
        try:
            super().read(key, 0 if self._lie == "starts anew" else offset, into)
        except BlockCorrupt:
            if self._lie != "fills up":
                raise
        except BlockMissing:
            if self._lie != "remembers":
                raise
        if self._lie == "flips" and len(into) > 2000:
            into[0] ^= 1

    def size(self, key: str) -> int | None:
        size = super().size(key)
        return size + 1 if self._lie == "grows" and size else size

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return iter(()) if self._lie == "lists nothing" else super().list(prefix)

    def delete(self, key: str) -> None:
        if self._lie != "keeps":
            super().delete(key)

    @contextlib.contextmanager
    def create(self) -> Iterator[Upload]:
        with super().create() as upload:
            yield _Racer(upload, self._objects) if self._lie == "races" else upload


class _Racer:
    """Looks whether a name is free, and takes it some time later: right for one writer, wrong for two."""

    def __init__(self, inner: Upload, objects: dict[str, bytes]) -> None:
        self._inner, self._objects = inner, objects
        self._data = bytearray()
        self.sync = inner.sync

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        self._data += b"".join(parts)

    def publish(self, key: str) -> None:
        if (there := self._objects.get(key)) is not None:
            check_same_size(key, len(there), len(self._data))
            return
        threading.Event().wait(0.01)
        self._objects[key] = bytes(self._data)


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        ("flips", {"read whole"}), ("starts anew", {"read a range"}), ("fills up", {"read a range"}),
        ("remembers", {"delete"}), ("grows", {"size"}), ("lists nothing", {"list"}),
        ("keeps", {"delete", "clean up"}), ("races", {"racing puts"}),
    ],
)  # fmt: skip
def test_each_lie_is_found_out(lie: str, found: set[str]) -> None:
    """A store that breaks one promise fails the probe of that promise, and no other."""
    assert set(faults_of(Liar(lie))) == found


def test_a_store_that_can_not_be_written_is_not_tried_further(backend: ObjectStoreBackend, meddler: Meddler) -> None:
    """After a failed write the reason is told once."""
    meddler.refuse = 403, LEAK % b"AccessDenied"
    first, *rest = probe(backend, 1000)
    assert first.name == "write"
    assert "403 Forbidden (AccessDenied)" in (first.fault or "")
    assert [one.name for one in rest] == ["clean up"]


def test_rclones_server_is_found_out(tmp_path: Path) -> None:
    """A server that is in use out there, and ignores conditions and answers ranges wrongly, is refused."""
    rclone = shutil.which("rclone", path=str(Path(sys.executable).parent))
    assert rclone is not None
    (tmp_path / Buckets.bucket).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [rclone, "serve", "s3", str(tmp_path), "--addr", f"127.0.0.1:{port}", "--config", "/dev/null"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_listening(port)
        found = faults_of(Buckets(f"http://127.0.0.1:{port}").backend(timeout_s=10))
    finally:
        process.kill()
        process.wait(10)
    assert "create-only put" in found
