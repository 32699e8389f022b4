"""Which regions are served, and where the bytes of each lie: the regions file, or a folder a region without one.

The file is TOML and is read strictly: what is not known, or not of the right kind, is refused with its place. Secrets
never stand in it; it names the environment variables that hold them.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote, urlsplit

from msgspec.structs import replace

from wherry.errors import BadRequest
from wherry.server.outside import shown
from wherry.server.rules.dispatch import Limits
from wherry.server.settings import load_regions
from wherry.server.storage import Metered, Sealed, StoreOptions, load_keyring, open_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wherry.models import Region
    from wherry.server.settings import Settings
    from wherry.server.storage import Backend

_SLUG = re.compile(r"[a-z][a-z0-9-]{0,31}")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_AMOUNT = re.compile(r"(\d+) ?(B|kB|MB|GB|KiB|MiB|GiB)?")
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SECRET = re.compile(r"secret|password|token|access_key|account_key|sas|service_account|private|^key$")
_KINDS = {str: "a string", int: "an integer", float: "a number", dict: "a table", list: "a list", bool: "true or false"}
_BUCKETS = ("s3", "gs", "az")


@dataclass(frozen=True)
class EncryptionSettings:
    """Where a region's keys are read from: an environment variable, or a file. One of them is set."""

    key_env: str | None = None
    key_file: Path | None = None


@dataclass(frozen=True)
class RegionSettings:
    """A region, where its store is and how that is reached."""

    region: Region
    store_url: str
    options: StoreOptions = field(default_factory=StoreOptions)
    limits: Limits = field(default_factory=Limits)
    encryption: EncryptionSettings | None = None


@dataclass(frozen=True)
class ServedRegions:
    """The regions by slug, in the order in which they are listed, and the limits from one region to another."""

    regions: dict[str, RegionSettings]
    pairs: dict[tuple[str, str], Limits] = field(default_factory=dict[tuple[str, str], Limits])


def served_regions(settings: Settings) -> ServedRegions:
    """The regions that a service is set up with. Raises BadRequest for a regions file that can't be read."""
    if settings.regions_file is not None:
        return load_regions_file(settings.regions_file)
    folder = settings.data.resolve() / "regions"
    known = load_regions(settings.regions)
    return ServedRegions({slug: RegionSettings(region, (folder / slug).as_uri()) for slug, region in known.items()})


def store_folder(settings: RegionSettings) -> Path | None:
    """The folder that a region's store is, None for a bucket."""
    parts = urlsplit(settings.store_url)
    return None if parts.scheme in _BUCKETS else Path(unquote(parts.path))


def open_region(slug: str, settings: RegionSettings, check_room: Callable[[], None] = lambda: None) -> Backend:
    """Where a region's objects lie: measured closest to the driver, sealed where the region has keys.

    Raises BadRequest for keys that can't be used, and what ``open_backend`` raises.
    """
    backend: Backend = Metered(open_backend(settings.store_url, settings.options, check_room), slug)
    if (encryption := settings.encryption) is not None:
        env = None if encryption.key_env is None else os.environ.get(encryption.key_env)
        if encryption.key_env is not None and not env:
            raise BadRequest(
                f"Region {slug}: the environment variable {encryption.key_env}, which has its keys, is not set."
            )
        backend = Sealed(backend, load_keyring(env, encryption.key_file))
    return backend


def load_regions_file(path: Path) -> ServedRegions:
    """Read a regions file. Raises BadRequest, which names the file, the table and the key, what is wanted and found."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRequest(f"The regions file {path} can't be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The regions file {path} is no TOML: {shown(error)}.") from error
    return _read(_Table(path, "", told))


class _Table:
    """A table of the file, whose keys are taken one by one; ``end`` refuses those that were not taken."""

    def __init__(self, path: Path, name: str, told: dict[str, Any]) -> None:
        self._path = path
        self._name = name
        self._told = dict(told)

    def take(self, key: str, kind: type) -> Any:
        """A key's value, None where it is missing."""
        found = self._told.pop(key, None)
        if found is not None and type(found) is not kind:
            self.refuse(key, _KINDS[kind], _KINDS.get(type(found), f"a {type(found).__name__}"))
        return found

    def text(self, key: str) -> str | None:
        found: str | None = self.take(key, str)
        return found

    def needed(self, key: str) -> str:
        found = self.text(key)
        if found is None:
            self.refuse(key, "a string", "nothing")
        return found

    def count(self, key: str) -> int | None:
        found: int | None = self.take(key, int)
        if found is not None and found < 1:
            self.refuse(key, "an integer from 1 on", str(found))
        return found

    def seconds(self, key: str) -> float | None:
        found = self._told.pop(key, None)
        if found is None:
            return None
        if type(found) not in (int, float) or not 0 < found < 3600:  # noqa: PLR2004  an hour is no timeout
            self.refuse(key, "seconds above 0 and below 3600", repr(found))
        return float(found)

    def amount(self, key: str) -> int | None:
        """Bytes, as an integer or with a unit."""
        if isinstance(self._told.get(key), str):
            text = self.needed(key)
            if (parts := _AMOUNT.fullmatch(text)) is None or not int(parts[1]):
                self.refuse(key, 'bytes, such as 1000000 or "50MiB"', repr(text))
            return int(parts[1]) * _UNITS[parts[2] or "B"]
        return self.count(key)

    def variable(self, key: str) -> str | None:
        found = self.text(key)
        if found is not None and not _VARIABLE.fullmatch(found):
            # What was found may be the secret itself.
            self.refuse(key, "the name of environment variables (A-Z, 0-9, _)", "something else")
        return found

    def table(self, key: str) -> _Table | None:
        found = self.take(key, dict)
        return None if found is None else _Table(self._path, f"{self._name}.{key}".lstrip("."), found)

    def tables(self, key: str) -> list[_Table]:
        """The tables of an array."""
        found = self.take(key, list) or []
        if not all(type(one) is dict for one in found):
            self.refuse(key, f"tables, each under [[{key}]]", "a list of something else")
        return [_Table(self._path, f"{key}, number {number}", one) for number, one in enumerate(found, 1)]

    def names(self) -> list[str]:
        return list(self._told)

    def end(self) -> None:
        for key in self._told:
            if _SECRET.search(key):
                raise BadRequest(
                    f"{self._at(key)}: secrets don't belong in this file. Put them into environment variables, "
                    'and say how their names begin: credentials = "NAME".'
                )
            raise BadRequest(f"{self._at(key)}: there is no such key.")

    def refuse(self, key: str, wanted: str, found: str) -> NoReturn:
        raise BadRequest(f"{self._at(key)}: expected {wanted}; found {found}.")

    def _at(self, key: str) -> str:
        return f"{self._path}: [{self._name}] {key}" if self._name else f"{self._path}: {key}"


def _read(top: _Table) -> ServedRegions:
    regions, pairs = top.table("regions"), top.tables("pairs")
    top.end()
    if regions is None or not (slugs := regions.names()):
        top.refuse("regions", "at least one table [regions.SLUG]", "nothing")
    known = load_regions()
    plain = max((one for one in known.values() if "image_transfer" in one.features), key=lambda one: len(one.sizes))
    places: dict[str, tuple[str, ...]] = {}
    served: dict[str, RegionSettings] = {}
    for slug in slugs:
        if not _SLUG.fullmatch(slug):
            regions.refuse(slug, "a slug of a-z, 0-9 and -, such as nyc3", "something else")
        told = regions.table(slug)
        assert told is not None  # it is one of the names
        facts = known.get(slug) or replace(plain, slug=slug, name=slug.upper(), available=True)
        served[slug] = _region(told, facts)
        places[slug] = _place(served[slug])
        _refuse_overlap(told, slug, places)
    limits: dict[tuple[str, str], Limits] = {}
    for one in pairs:
        pair = _pair(one, served)
        if pair in limits:
            one.refuse("to", "a pair that is not there yet", " to ".join(pair))
        limits[pair] = _limits(one)
    return ServedRegions(served, limits)


def _region(told: _Table, facts: Region) -> RegionSettings:
    url = _store_url(told)
    is_bucket = urlsplit(url).scheme in _BUCKETS
    options = _options(told, is_bucket=is_bucket)
    name = told.text("name")
    limits, encryption = told.table("limits"), told.table("encryption")
    told.end()
    return RegionSettings(
        replace(facts, name=name) if name else facts, url, options, _limits(limits) if limits else Limits(),
        _encryption(encryption) if encryption else None,
    )  # fmt: skip


def _store_url(told: _Table) -> str:
    url = told.needed("store")
    parts = urlsplit(url)
    if parts.username is not None or parts.query or parts.fragment:
        told.refuse("store", "a URL without credentials, query or fragment", "one with them")
    is_file = url.startswith("/") or (parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"))
    if not is_file and not (parts.scheme in _BUCKETS and parts.netloc):
        told.refuse("store", "s3://BUCKET/PREFIX, gs://…, az://…, file:///FOLDER or an absolute path", repr(url))
    return url


def _options(told: _Table, *, is_bucket: bool) -> StoreOptions:
    given: dict[str, Any] = {
        "endpoint": _endpoint(told), "provider_region": told.text("provider_region"),
        "credentials": told.variable("credentials"), "connect_timeout_s": told.seconds("connect_timeout_s"),
        "request_timeout_s": told.seconds("request_timeout_s"), "retries": told.count("retries"),
        "retry_for_s": told.seconds("retry_for_s"),
    }  # fmt: skip
    given = {key: value for key, value in given.items() if value is not None}
    if given and not is_bucket:
        told.refuse(next(iter(given)), "nothing: the store is a folder", "a value")
    return StoreOptions(**given)


def _endpoint(told: _Table) -> str | None:
    url = told.text("endpoint")
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.username is not None or parts.query or parts.fragment:
        told.refuse("endpoint", "a URL without credentials, query or fragment", "one with them")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        told.refuse("endpoint", "http://HOST or https://HOST", repr(url))
    return url


def _limits(told: _Table) -> Limits:
    limits = Limits(told.count("transfers"), told.amount("bytes_per_s"))
    told.end()
    return limits


def _encryption(told: _Table) -> EncryptionSettings:
    variable, file = told.variable("key_env"), told.text("key_file")
    told.end()
    if (variable is None) == (file is None):
        told.refuse("key_env", "this or key_file", "both" if file else "neither")
    if file is not None and not file.startswith("/"):
        told.refuse("key_file", "an absolute path", repr(file))
    return EncryptionSettings(variable, None if file is None else Path(file))


def _pair(told: _Table, served: Mapping[str, RegionSettings]) -> tuple[str, str]:
    source, target = told.needed("from"), told.needed("to")
    for key, slug in (("from", source), ("to", target)):
        if slug not in served:
            told.refuse(key, f"a region of this file ({', '.join(served)})", repr(slug))
    if source == target:
        told.refuse("to", "another region than 'from'", repr(target))
    return source, target


def _place(one: RegionSettings) -> tuple[str, ...]:
    """Where a store lies, as parts that begin alike where one lies inside another."""
    parts = urlsplit(one.store_url)
    if parts.scheme in _BUCKETS:
        inside = filter(None, parts.path.split("/"))
        return (parts.scheme, one.options.endpoint or "", parts.netloc, *inside)
    return ("file", *PurePosixPath(unquote(parts.path)).parts)


def _refuse_overlap(told: _Table, slug: str, places: Mapping[str, tuple[str, ...]]) -> None:
    """One region's objects would be strays to the other, and each would delete what the other needs."""
    ours = places[slug]
    for other, place in places.items():
        length = min(len(place), len(ours))
        if other != slug and place[:length] == ours[:length]:
            told.refuse("store", "a place of its own", f"one that the region {other} has, too")
