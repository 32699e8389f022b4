"""The certificate that https shows: issued by a CA of the service's own, or brought by its operator.

``ensure_certificate`` keeps a local CA in a folder. The CA is made once and never replaced, since clients were told to
trust it: what is wrong with its files is an error. The server's certificate can be had again at any time, and is
issued anew wherever it no longer serves. A kill at any moment leaves the CA whole or absent. Only one process may use
the folder.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar

import trustme
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from wherry.errors import BadRequest, Unavailable
from wherry.server.crashpoint import crash_point
from wherry.server.durable import sync_folder
from wherry.server.outside import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

T = TypeVar("T")

log = logging.getLogger("wherry")

_CA, _CA_KEY, _SERVER, _SERVER_KEY = "ca.pem", "ca-key.pem", "server.pem", "server-key.pem"
_UNFINISHED = ".unfinished"
_PUBLIC, _SECRET = 0o644, 0o600
_ALWAYS = ("localhost", "127.0.0.1", "::1")
_VALID = timedelta(days=825)  # Apple's clients take no certificate that is valid for longer
_RENEW = timedelta(days=365)  # a service may run for a year after a start without its certificate ending
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key. ``ca_file`` is what clients must trust; None where the operator brought his own."""

    cert_file: Path
    key_file: Path
    ca_file: Path | None = None


def ensure_certificate(folder: Path, names: Iterable[str], now: datetime | None = None) -> Certificate:
    """A certificate for this machine and the names, by the CA that the folder keeps; both are made where missing.

    Raises BadRequest for a name that is none, or for a CA whose files are broken; Unavailable if the disk refuses.
    """
    wanted = _known_by(names)
    try:
        if not folder.is_dir() or not any(folder.iterdir()):
            _make_ca(folder)
        ca = _load_ca(folder)
        if reason := _reason_to_issue(folder, wanted, now or datetime.now(UTC)):
            _issue(ca, folder, wanted, now or datetime.now(UTC))
            log.info("tls.issued names=%s reason=%s", ",".join(sorted(wanted)), reason)
    except OSError as error:
        raise Unavailable(f"The certificates in {folder} can't be kept: {error.strerror}.") from error
    return Certificate(folder / _SERVER, folder / _SERVER_KEY, folder / _CA)


def own_certificate(cert_file: Path, key_file: Path, now: datetime | None = None) -> Certificate:
    """A certificate that the operator brought, checked. Raises BadRequest, which says what is wrong with which file."""
    cert = _load_pair(cert_file, key_file)
    if cert.not_valid_after_utc <= (now or datetime.now(UTC)):
        raise BadRequest(f"The certificate in {cert_file} ended on {cert.not_valid_after_utc:%Y-%m-%d}.")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file)
    except ssl.SSLError as error:
        raise BadRequest(f"TLS can't use the certificate in {cert_file} with its key: {error.reason}.") from error
    return Certificate(cert_file, key_file)


def _known_by(names: Iterable[str]) -> frozenset[str]:
    """What the certificate is for. An address that means all of a machine's addresses names none of them."""
    hosts = [_host(name) for name in (*_ALWAYS, *names)]
    return frozenset(host for host in hosts if host not in {"0.0.0.0", "::"})  # noqa: S104  nothing is bound here


def _host(name: str) -> str:
    try:
        return str(ip_address(name))
    except ValueError:
        pass
    if not _HOST.fullmatch(name.lower()):
        raise BadRequest(f"{name!r} is no host name (international ones as xn--...) and no IP address.")
    return name.lower()


# ---------------------------------------------------------------------------------------------------------- the CA


def _make_ca(folder: Path) -> None:
    """Make the folder under another name, and give it its own once it is whole: no CA is ever without its key."""
    unfinished = folder.with_name(folder.name + _UNFINISHED)
    if unfinished.exists():  # of a process that was killed here
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    ca = trustme.CA(
        path_length=0, organization_name="wherry", organization_unit_name=f"local CA {secrets.token_hex(4)}"
    )
    _put(unfinished / _CA_KEY, ca.private_key_pem.bytes(), _SECRET)
    _put(unfinished / _CA, ca.cert_pem.bytes(), _PUBLIC)
    crash_point("tls.before_ca")
    unfinished.rename(folder)
    sync_folder(folder.parent)
    log.info("tls.ca_made folder=%s", folder)


def _load_ca(folder: Path) -> trustme.CA:
    cert_file, key_file = folder / _CA, folder / _CA_KEY
    try:
        _check_may_sign(_load_pair(cert_file, key_file), cert_file)
    except BadRequest as error:
        advice = f"Put it back from a backup, or remove {folder}: a new CA is made then, and all clients must trust it."
        raise BadRequest(f"{error.message} {advice}") from error
    return trustme.CA.from_pem(cert_file.read_bytes(), key_file.read_bytes())


def _check_may_sign(cert: x509.Certificate, file: Path) -> None:
    try:
        cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)  # what it signs refers to this
        may_sign = cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        may_sign = False
    if not may_sign:
        raise BadRequest(f"The certificate in {file} is not a CA's.")


# ------------------------------------------------------------------------------------------ the server's certificate


def _reason_to_issue(folder: Path, wanted: frozenset[str], now: datetime) -> str | None:
    """Why the server needs another certificate, or None."""
    if not (folder / _SERVER).exists():
        return "there is none"
    try:
        cert = _load_pair(folder / _SERVER, folder / _SERVER_KEY)
        cert.verify_directly_issued_by(_load_certificate(folder / _CA))
    except BadRequest as error:  # also a kill between the two files, which leaves a key of another certificate
        return error.message
    except (ValueError, TypeError, InvalidSignature):
        return "another CA signed it"
    if cert.not_valid_after_utc - now < _RENEW:
        return f"it ends on {cert.not_valid_after_utc:%Y-%m-%d}"
    return None if _names(cert) == wanted else "the names changed"


def _issue(ca: trustme.CA, folder: Path, wanted: frozenset[str], now: datetime) -> None:
    try:
        leaf = ca.issue_cert(
            *sorted(wanted), organization_name="wherry", organization_unit_name="server",
            not_before=now - timedelta(days=1), not_after=now - timedelta(days=1) + _VALID,
        )  # fmt: skip
    except ValueError as error:
        raise BadRequest(f"No certificate can be issued for {', '.join(sorted(wanted))}: {shown(error)}.") from error
    _put(folder / _SERVER_KEY, leaf.private_key_pem.bytes(), _SECRET)
    crash_point("tls.between_key_and_certificate")
    _put(folder / _SERVER, leaf.cert_chain_pems[0].bytes(), _PUBLIC)


def _names(cert: x509.Certificate) -> frozenset[str]:
    try:
        found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset([*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))])


# ------------------------------------------------------------------------------------------------------------ files


def _load_pair(cert_file: Path, key_file: Path) -> x509.Certificate:
    """The certificate in a file, whose key is in the other. Raises BadRequest."""
    cert, key = _load_certificate(cert_file), _load_key(key_file)
    if cert.public_key() != key.public_key():
        raise BadRequest(f"The key in {key_file} is not that of the certificate in {cert_file}.")
    return cert


def _load_certificate(file: Path) -> x509.Certificate:
    return _load(file, "a certificate in PEM", x509.load_pem_x509_certificate)


def _load_key(file: Path) -> PrivateKeyTypes:
    return _load(file, "a private key in PEM without a password", lambda data: load_pem_private_key(data, None))


def _load(file: Path, expected: str, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(file.read_bytes())
    except OSError as error:
        raise BadRequest(f"{file} can't be read ({error.strerror}); {expected} is wanted there.") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: a key that has a password
        raise BadRequest(f"{file} does not hold {expected}.") from error


def _put(file: Path, data: bytes, mode: int) -> None:
    """Write a file durably: under another name first, so that it is never there in part."""
    unfinished = file.with_name(file.name + _UNFINISHED)
    unfinished.unlink(missing_ok=True)  # of a process that was killed here; its mode may be another
    descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)
    unfinished.rename(file)
    sync_folder(file.parent)
