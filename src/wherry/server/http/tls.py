"""The certificate that https shows: issued by a CA of the service's own, or brought by its operator.

``ensure_certificate`` keeps a local CA in a folder. The CA is made once and never replaced, since clients were told to
trust it: what is wrong with its files is an error. It may sign for names and addresses of private use, and for those
that it was made for: if its key is stolen, it can't pose as any other site. The server's certificate can be had again
at any time, and is issued anew wherever it no longer serves. A kill at any moment leaves the CA whole or absent. Only
one process may use the folder.
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
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Literal, TypeVar

import idna
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wherry.errors import BadRequest, Unavailable
from wherry.server.machine.durable import sync_folder
from wherry.server.telemetry.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificateIssuerPrivateKeyTypes,
        CertificatePublicKeyTypes,
        PrivateKeyTypes,
    )

T = TypeVar("T")

log = logging.getLogger("wherry")

_CA, _CA_KEY, _SERVER, _SERVER_KEY = "ca.pem", "ca-key.pem", "server.pem", "server-key.pem"
_UNFINISHED = ".unfinished"
_ALWAYS = ("localhost", "127.0.0.1", "::1")
_CA_LIVES = timedelta(days=3652)
_LIVES = timedelta(days=365)
_RENEW = timedelta(days=30)
_SKEW = timedelta(days=1)  # a client's clock may be behind
_PRIVATE_NAMES = ("home.arpa", "internal", "local", "localhost", "test")  # with all names below them; none is public
_PRIVATE_NETWORKS = (
    "127.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "::1/128",
    "fc00::/7", "fe80::/10",
)  # fmt: skip
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key. ``ca_file`` is what clients must trust; None where the operator brought his own."""

    cert_file: Path
    key_file: Path
    ca_file: Path | None = None


def ensure_certificate(folder: Path, names: Iterable[str], now: datetime | None = None) -> Certificate:
    """A certificate for this machine and the names, by the CA that the folder keeps; both are made where missing.

    Raises BadRequest for a name that is none or that the CA may not sign for, and for a CA that has ended or whose
    files are broken; Unavailable if the disk refuses.
    """
    wanted, now = _known_by(names), now or datetime.now(UTC)
    try:
        if not folder.is_dir() or not any(folder.iterdir()):
            _make_ca(folder, wanted, now)
        ca = _load_ca(folder, wanted, now)
        if reason := _reason_to_issue(folder, wanted, now):
            _issue(ca, folder, wanted, now)
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
    host = name.lower()
    try:
        if _HOST.fullmatch(host):
            idna.encode(host.removeprefix("*."))
            return host
    except idna.IDNAError:
        pass
    raise BadRequest(f"{name!r} is no host name (international ones as xn--...) and no IP address.")


# ---------------------------------------------------------------------------------------------------------- the CA


@dataclass(frozen=True)
class _Ca:
    """A CA's certificate and its key."""

    cert: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes


def _make_ca(folder: Path, names: Iterable[str], now: datetime) -> None:
    """Make the folder under another name, and give it its own once it is whole: no CA is ever without its key."""
    unfinished = folder.with_name(folder.name + _UNFINISHED)
    if unfinished.exists():  # of a process that was killed here
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(f"local CA {secrets.token_hex(4)}")
    cert = (
        _certificate(name, name, key.public_key(), now - _SKEW, now + _CA_LIVES)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs="certificates"), critical=True)
        .add_extension(x509.NameConstraints(_may_sign_for(names), None), critical=True)
        .sign(key, hashes.SHA256())
    )
    _put(unfinished / _CA_KEY, _key_pem(key))
    _put(unfinished / _CA, cert.public_bytes(Encoding.PEM))
    failpoint("tls.before_ca")
    unfinished.rename(folder)
    sync_folder(folder.parent)
    log.info("tls.ca_made folder=%s", folder)


def _may_sign_for(names: Iterable[str]) -> list[x509.GeneralName]:
    """What a new CA is limited to; a name stands for those below it as well."""
    wanted = [_san(name.removeprefix("*.")) for name in names]
    permitted: list[x509.GeneralName] = [
        *map(x509.DNSName, _PRIVATE_NAMES),
        *(x509.IPAddress(ip_network(network)) for network in _PRIVATE_NETWORKS),
        *(x509.IPAddress(ip_network(one.value)) if isinstance(one, x509.IPAddress) else one for one in wanted),
    ]
    return list(dict.fromkeys(permitted))


def _load_ca(folder: Path, names: Iterable[str], now: datetime) -> _Ca:
    """Load the CA that is to sign for these names. Raises BadRequest."""
    cert_file, key_file = folder / _CA, folder / _CA_KEY
    new_ca = f"remove {folder}: a new CA is made then, and all clients must trust it."
    try:
        cert = _load_pair(cert_file, key_file)
        _check_may_sign(cert, cert_file)
    except BadRequest as error:
        raise BadRequest(f"{error.message} Put it back from a backup, or {new_ca}") from error
    if cert.not_valid_after_utc <= now:
        raise BadRequest(f"The CA in {cert_file} ended on {cert.not_valid_after_utc:%Y-%m-%d}; {new_ca}")
    if cert.not_valid_after_utc - now < _LIVES:
        log.warning("tls.ca_ends on %s; to have a new one, %s", f"{cert.not_valid_after_utc:%Y-%m-%d}", new_ca)
    if strange := [name for name in sorted(names) if not _is_permitted(cert, name)]:
        raise BadRequest(
            f"The CA in {cert_file} may sign for names of private use and for those that it was made for, not for "
            f"{', '.join(strange)}. To have one that may, {new_ca}"
        )
    return _Ca(cert, load_pem_private_key(key_file.read_bytes(), None))  # type: ignore[arg-type]  # it has signed


def _check_may_sign(cert: x509.Certificate, file: Path) -> None:
    try:
        cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)  # what it signs refers to this
        may_sign = cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        may_sign = False
    if not may_sign:
        raise BadRequest(f"The certificate in {file} is not a CA's.")


def _is_permitted(ca: x509.Certificate, name: str) -> bool:
    """Whether a CA may sign for a name. One that an earlier version made has no limits."""
    try:
        permitted = ca.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except x509.ExtensionNotFound:
        return True
    try:
        address = ip_address(name)
    except ValueError:
        host = name.removeprefix("*.")
        return any(isinstance(one, x509.DNSName) and f".{host}".endswith(f".{one.value}") for one in permitted)
    return any(isinstance(one, x509.IPAddress) and address in ip_network(str(one.value)) for one in permitted)


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


def _issue(ca: _Ca, folder: Path, wanted: frozenset[str], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    signer = ca.cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    ends = min(now + _LIVES, ca.cert.not_valid_after_utc)
    cert = (
        _certificate(_subject("server"), ca.cert.subject, key.public_key(), now - _SKEW, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer), critical=False)
        .add_extension(x509.SubjectAlternativeName(map(_san, sorted(wanted))), critical=False)
        .add_extension(_usage(signs="handshakes"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca.key, hashes.SHA256())
    )
    _put(folder / _SERVER_KEY, _key_pem(key))
    failpoint("tls.between_key_and_certificate")
    _put(folder / _SERVER, cert.public_bytes(Encoding.PEM))


def _names(cert: x509.Certificate) -> frozenset[str]:
    try:
        found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset([*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))])


# ----------------------------------------------------------------------------------------------------- certificates


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    """What the CA's certificate and the server's have in common."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _subject(unit: str) -> x509.Name:
    """No common name: clients would read a host's name in it."""
    attributes = {NameOID.ORGANIZATION_NAME: "wherry", NameOID.ORGANIZATIONAL_UNIT_NAME: unit}
    return x509.Name([x509.NameAttribute(*attribute) for attribute in attributes.items()])


def _usage(*, signs: Literal["certificates", "handshakes"]) -> x509.KeyUsage:
    is_ca = signs == "certificates"
    return x509.KeyUsage(
        digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _san(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


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


def _put(file: Path, data: bytes) -> None:
    """Write a file durably, for this user alone: under another name first, so that it is never there in part."""
    unfinished = file.with_name(file.name + _UNFINISHED)
    unfinished.unlink(missing_ok=True)  # of a process that was killed here; its mode may be another
    descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)
    unfinished.rename(file)
    sync_folder(file.parent)
