"""Objects in a bucket of S3, Google Cloud Storage or Azure; the only file that knows ``obstore``.

Of a store it needs create-only put, ranged get, list and delete, and nothing else. An object is collected in memory
(a pack has at most 64 MiB) and put in one request, so nothing is ever half there and nothing has to be swept.

That the bytes arrived as they were sent is checked after each put: by the store's ETag where that is their MD5, which
costs no request (S3, GCS and most of their kind); else by reading the object back, which costs a whole get (Azure, and
S3 with keys of KMS). The MD5 goes along as the object's metadata, so that one which an earlier attempt left damaged is
not taken for good when it is met again.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from wherry.errors import BlockCorrupt, BlockMissing, StorageError, StoreFull, StoreRefused, StoreUnavailable
from wherry.server.outside import shown
from wherry.server.storage.backends import check_same_size
from wherry.server.telemetry.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from obstore import PutResult
    from obstore.store import (
        AzureConfig,
        BackoffConfig,
        ClientConfig,
        GCSConfig,
        ObjectStore,
        RetryConfig,
        S3Config,
        S3Credential,
    )

    from wherry.server.storage.backends import Backend

OBJECT_SCHEMES = ("s3", "gs", "az")

_DIGEST = "md5"  # the metadata that says what was sent
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_NO_ROOM = frozenset({"QuotaExceeded", "XMinioStorageFull"})
# Refusals in the client's range of status that pass: the request came too slowly, or its bytes changed on the way.
_PASSING = frozenset({"RequestTimeout", "IncompleteBody", "BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"})
_PASSING_STATUS = frozenset({408, 409, 425, 429})
_KINDS = {"Connect": "no connection", "Timeout": "no answer in time"}


@dataclass(frozen=True)
class StoreOptions:
    """How a bucket is reached.

    ``endpoint`` is the URL of a service other than the provider's own, with ``provider_region`` as the provider calls
    it. ``credentials`` is the first part of the names of environment variables (``NYC3`` for ``NYC3_ACCESS_KEY_ID``);
    without it the provider's own variables count (``AWS_ACCESS_KEY_ID``). A request ends after ``request_timeout_s``;
    one that failed is sent again up to ``retries`` times within ``retry_for_s``. Together they bound how long a cut
    network goes unnoticed (default: 45 s).
    """

    endpoint: str | None = None
    provider_region: str | None = None
    credentials: str | None = None
    connect_timeout_s: float = 5
    request_timeout_s: float = 30
    retries: int = 3
    retry_for_s: float = 15


def open_bucket(url: str, options: StoreOptions, environ: Mapping[str, str] = os.environ) -> ObjectStoreBackend:
    """The backend at ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``. Sends nothing yet.

    Raises StoreRefused for a URL that is none, a variable that is missing, or credentials that can't be read.
    """
    parts = urlsplit(url)
    if parts.username is not None or parts.query or parts.fragment or not parts.hostname:
        raise StoreRefused(f"A store is {parts.scheme}://BUCKET/PREFIX, without credentials or a query.")
    variables = _Variables(url, options.credentials, environ)
    try:
        store, account = _OPENERS[parts.scheme](parts.netloc, options, variables)
    except (BaseError, FileNotFoundError, ValueError) as error:
        raise StoreRefused(f"The store {url} can't be opened: {_first_line(error)}") from None
    bucket = f"{parts.scheme}://{parts.netloc} {options.endpoint or ''} {account}"
    return ObjectStoreBackend(store, parts.path.strip("/"), name=url, bucket=bucket)


_in_the_making = threading.BoundedSemaphore(16)  # a thread that makes one never waits for a thread that makes another


class ObjectStoreBackend:
    """Objects below a prefix of one bucket.

    ``name`` is what errors call it. Backends with the same ``bucket`` can copy from each other within the store.
    """

    def __init__(self, store: ObjectStore, prefix: str = "", *, name: str, bucket: str) -> None:
        self._store = store
        self._prefix = f"{prefix}/" if prefix else ""
        self._name = name
        self._bucket = bucket

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer with an object's bytes from an offset on; one ranged get."""
        if not into:  # no store serves an empty range
            if self._look(key) is None:
                raise BlockMissing(f"{key} is not in {self._name}")
            return
        with self._errors(key, "read", may_be_absent=True):
            found = obstore.get_range(self._store, self._path(key), start=offset, length=len(into))
        if len(found) != len(into):
            raise BlockCorrupt(f"{key} ends {len(into) - len(found)} bytes too early")
        into[:] = memoryview(found)

    def size(self, key: str) -> int | None:
        """An object's size in bytes, or None; one get of its first byte."""
        found = self._look(key)
        return None if found is None else found.size

    @contextmanager
    def create(self) -> Iterator[ObjectUpload]:
        """Begin an object; nothing of it leaves this process before it is published.

        Waits where this process has sixteen in the making: each may have a pack's 64 MiB in memory.
        """
        with _in_the_making:
            yield ObjectUpload(self)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every published object whose key begins so, with its size; one request for each thousand."""
        folder = self._path(prefix).rpartition("/")[0]  # stores list whole folders
        with self._errors(prefix, "list"):
            for page in obstore.list(self._store, folder or None):
                for found in page:
                    key = found["path"].removeprefix(self._prefix)
                    if key.startswith(prefix):
                        yield key, found["size"]

    def delete(self, key: str) -> None:
        """Remove an object."""
        try:
            with self._errors(key, "remove", may_be_absent=True):
                obstore.delete(self._store, self._path(key))
        except BlockMissing:
            pass  # GCS and Azure say so, S3 does not
        failpoint("bucket.after_delete")

    def sweep_unfinished(self) -> None:
        """Nothing is ever left behind: a put is there as a whole or not at all."""

    def can_copy_from(self, source: Backend) -> bool:
        """Whether both backends lie in one bucket."""
        return isinstance(source, ObjectStoreBackend) and source._bucket == self._bucket  # noqa: SLF001  one of its kind

    def copy_from(self, source: Backend, source_key: str, target_key: str) -> bool:
        """Copy an object within the store, create-only; False if this can't be done and the bytes must be carried.

        It can where both backends lie in one bucket. S3 knows no create-only copy in one request, so there it takes
        three (begin, copy as the only part, complete if there is none yet); a copy cut off between them leaves a part
        that only a lifecycle rule of the bucket removes. The size is compared, and nothing else: the caller
        reads the copy from here and checks its blocks, like those of any copy.

        Raises BlockMissing if the source is not there, BlockCorrupt if another size is, StoreUnavailable.
        """
        if not isinstance(source, ObjectStoreBackend) or source._bucket != self._bucket:  # noqa: SLF001  one of its kind
            return False
        if (size := source.size(source_key)) is None:
            raise BlockMissing(f"{source_key} is not in {source._name}")  # noqa: SLF001
        try:
            with self._errors(target_key, "copy"):
                self._copy(source._path(source_key), self._path(target_key))  # noqa: SLF001
        except StoreRefused:
            return False  # forbidden or not known here: no reason why carrying the bytes should fail, too
        if (there := self.size(target_key)) is None:
            raise StoreUnavailable(f"{target_key} was copied and removed by others meanwhile in {self._name}")
        check_same_size(target_key, there, size)
        return True

    def put(self, key: str, data: bytearray, md5: str) -> None:
        """Put an object, unless there is one; for ``ObjectUpload``."""
        failpoint("bucket.before_put")
        with self._errors(key, "publish"):
            made = self._create(key, data, md5)
        failpoint("bucket.after_put")
        if made is None:
            self._check_there(key, len(data))
        else:
            self._check_arrived(key, made["e_tag"], md5)

    def _check_arrived(self, key: str, e_tag: str | None, md5: str) -> None:
        """Notice bytes that changed on the way. The object is ours alone, so it can go: a new attempt puts it again."""
        if _is_md5(e_tag, md5) or self._md5(key) == md5:
            return
        self.delete(key)
        raise StoreUnavailable(f"{key} came to {self._name} with other bytes than were sent, and was removed there")

    def _check_there(self, key: str, size: int) -> None:
        """Check the object that has the name already: its size, and that it is what its own writer sent.

        It is not compared with what was to be put: two writers of one key may have encrypted it differently.
        """
        if (found := self._look(key)) is None:
            raise StoreUnavailable(f"{key} was published and removed by others meanwhile in {self._name}")
        check_same_size(key, found.size, size)
        if found.md5 and not _is_md5(found.e_tag, found.md5) and self._md5(key) != found.md5:
            raise BlockCorrupt(f"{key} is there with other bytes than were sent to {self._name}")

    def _look(self, key: str) -> _Found | None:
        """What the store says of an object. A get and not a head, so that an error has a body that says why."""
        try:
            with self._errors(key, "look up", may_be_absent=True):
                try:
                    found = obstore.get(self._store, self._path(key), options={"range": (0, 1)})
                except GenericError as error:
                    if not _is_past_end(error):
                        raise
                    found = obstore.get(self._store, self._path(key))  # an empty object has no first byte
                return _Found(found.meta["size"], found.meta["e_tag"], found.attributes.get(_DIGEST))
        except BlockMissing:
            return None

    def _md5(self, key: str) -> str:
        digest = _new_md5()
        with self._errors(key, "read back"):
            for part in obstore.get(self._store, self._path(key)).stream(min_chunk_size=1 << 20):
                digest.update(part)
        return digest.hexdigest()

    def _create(self, key: str, data: bytearray, md5: str) -> PutResult | None:
        told = {_DIGEST: md5}
        try:
            return obstore.put(
                self._store, self._path(key), data, attributes=told, mode="create", use_multipart=False
            )  # fmt: skip
        except AlreadyExistsError:
            return None

    def _copy(self, source: str, target: str) -> None:
        try:
            obstore.copy(self._store, source, target, overwrite=False)
        except AlreadyExistsError:
            return

    def _path(self, key: str) -> str:
        return self._prefix + key

    @contextmanager
    def _errors(self, key: str, doing: str, *, may_be_absent: bool = False) -> Iterator[None]:
        """Turn the library's errors into the store's; BlockMissing only where an object may be absent.

        Without their cause: it quotes requests and replies, in which keys, signatures and tokens may stand.
        """
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            if may_be_absent and isinstance(error, FileNotFoundError) and _code(error) not in _NO_BUCKET:
                raise BlockMissing(f"{key} is not in {self._name}") from None
            if _is_past_end(error):
                raise BlockCorrupt(f"{key} ends too early") from None
            raise _kind(error)(f"can't {doing} {key or 'objects'} in {self._name}: {_cause(error)}") from None


class ObjectUpload:
    """Bytes in memory that become an object. The library sends them from where they lie, without a copy."""

    def __init__(self, backend: ObjectStoreBackend) -> None:
        self._backend = backend
        self._data = bytearray()
        self._md5 = _new_md5()

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        for part in parts:
            self._data += part
            self._md5.update(part)

    def sync(self) -> None:
        """Nothing survives before it is put; ``publish`` returns when the store has it."""

    def publish(self, key: str) -> None:
        """Put the object under its name."""
        self._backend.put(key, self._data, self._md5.hexdigest())


class _Found(NamedTuple):
    size: int
    e_tag: str | None
    md5: str | None


class _Variables:
    """The environment variables with a store's credentials."""

    def __init__(self, url: str, prefix: str | None, environ: Mapping[str, str]) -> None:
        self._url = url
        self.prefix = prefix
        self._environ = environ

    def get(self, name: str) -> str | None:
        return self._environ.get(f"{self.prefix}_{name}") or None

    def one_of(self, *names: str) -> tuple[str, str]:
        """The first of these that is set. Raises StoreRefused if none is."""
        for name in names:
            if value := self.get(name):
                return name, value
        wanted = " or ".join(f"{self.prefix}_{name}" for name in names)
        raise StoreRefused(f"The store {self._url} needs the environment variable {wanted}, which is not set.")


def _open_s3(bucket: str, options: StoreOptions, variables: _Variables) -> tuple[ObjectStore, str]:
    told = {"region": options.provider_region, "endpoint": options.endpoint}
    store = S3Store(
        bucket, client_options=_client(options), retry_config=_retries(options), copy_if_not_exists="multipart",
        disable_bulk_delete=True, credential_provider=_s3_credentials(variables), config=cast("S3Config", _given(told)),
    )  # fmt: skip
    return store, ""


def _s3_credentials(variables: _Variables) -> Callable[[], S3Credential] | None:
    """A provider and not plain settings: those would be mixed with an AWS_SESSION_TOKEN from the environment."""
    if variables.prefix is None:
        return None
    _, key = variables.one_of("ACCESS_KEY_ID")
    _, secret = variables.one_of("SECRET_ACCESS_KEY")
    token = variables.get("SESSION_TOKEN")
    return lambda: {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": None}


def _open_gs(bucket: str, options: StoreOptions, variables: _Variables) -> tuple[ObjectStore, str]:
    told = {"base_url": options.endpoint}
    if variables.prefix is not None:
        name, value = variables.one_of("SERVICE_ACCOUNT_KEY", "SERVICE_ACCOUNT")
        told[name.lower()] = value
    config = cast("GCSConfig", _given(told))
    return GCSStore(bucket, client_options=_client(options), retry_config=_retries(options), config=config), ""


def _open_az(container: str, options: StoreOptions, variables: _Variables) -> tuple[ObjectStore, str]:
    told = {"endpoint": options.endpoint}
    if variables.prefix is not None:
        _, told["account_name"] = variables.one_of("ACCOUNT_NAME")
        name, value = variables.one_of("ACCOUNT_KEY", "SAS_KEY")
        told[name.lower()] = value
    config = cast("AzureConfig", _given(told))
    store = AzureStore(container, client_options=_client(options), retry_config=_retries(options), config=config)
    return store, store.config.get("account_name", "")


_OPENERS = {"s3": _open_s3, "gs": _open_gs, "az": _open_az}


def _given(told: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in told.items() if value is not None}


def _client(options: StoreOptions) -> ClientConfig:
    return {
        "allow_http": options.endpoint is not None and options.endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=options.connect_timeout_s),
        "timeout": timedelta(seconds=options.request_timeout_s),
    }


def _retries(options: StoreOptions) -> RetryConfig:
    backoff: BackoffConfig = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2}
    limit = timedelta(seconds=options.retry_for_s)
    return {"max_retries": options.retries, "retry_timeout": limit, "backoff": backoff}


def _new_md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _is_md5(e_tag: str | None, md5: str) -> bool:
    """Whether a store's ETag proves these bytes. One that does not proves nothing: with KMS it only looks like one."""
    return e_tag is not None and e_tag.strip('"').lower() == md5


def _is_past_end(error: BaseError | FileNotFoundError) -> bool:
    said, _, inside = str(error).partition("\n\nDebug source")
    return "status code: 416" in said or "StartTooLarge" in inside


def _kind(error: Exception) -> type[StorageError]:
    """The error of ours that fits. The library has few classes, so the reply's status and code decide."""
    status, code = int(_match(r"status code: (\d{3})", error) or 0), _code(error)
    if status == 507 or code in _NO_ROOM:  # noqa: PLR2004  insufficient storage
        return StoreFull
    if code in _PASSING or status in _PASSING_STATUS or status >= 500:  # noqa: PLR2004  the server's faults
        return StoreUnavailable
    refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError, NotSupportedError))
    return StoreRefused if status or refused or "non-partial response" in str(error) else StoreUnavailable


def _cause(error: Exception) -> str:
    """Why, in a few words: the reply's status and code, or what became of the connection. Never the reply itself."""
    if status := _match(r"status code: (\d{3}[ \w]*)", error):
        return f"its reply is {shown(status)}" + (f" ({code})" if (code := _code(error)) else "")
    if kind := _match(r"\bkind: (\w+)", error):
        return _KINDS.get(kind, "the connection broke")
    return _first_line(error)


def _code(error: Exception) -> str | None:
    """The word that the provider has for a refusal."""
    return _match(r"<Code>(\w+)</Code>", error)


def _first_line(error: Exception) -> str:
    return shown(re.sub(r"\S+://\S+", "the store", str(error).partition("\n")[0]))


def _match(pattern: str, error: Exception) -> str | None:
    found = re.search(pattern, str(error))
    return found and found[1]
