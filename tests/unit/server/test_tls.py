from __future__ import annotations

import logging
import os
import re
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509

from wherry.errors import BadRequest, Unavailable
from wherry.server.http import tls
from wherry.server.http.tls import Certificate, ensure_certificate, own_certificate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the CA is to be kept."""
    return tmp_path / "tls"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def names_of(certificate: Certificate) -> set[str]:
    cert = x509.load_pem_x509_certificate(certificate.cert_file.read_bytes())
    found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))}


def own(tmp_path: Path, not_after: datetime | None = None) -> tuple[Path, Path]:
    """A certificate and its key, as an operator brings them."""
    issued = trustme.CA().issue_cert("images.test", not_after=not_after)
    cert_file, key_file = tmp_path / "own.pem", tmp_path / "own-key.pem"
    issued.cert_chain_pems[0].write_to_path(cert_file)
    issued.private_key_pem.write_to_path(key_file)
    return cert_file, key_file


def lives(file: Path, *, since: datetime) -> timedelta:
    """For how long a certificate is valid, to the day."""
    ends = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    return timedelta(days=round((ends - since) / timedelta(days=1)))


def shake_hands(certificate: Certificate, name: str) -> None:
    """Let a client that trusts the CA, and checks by the book, meet a server with the certificate."""
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    of_server.load_cert_chain(certificate.cert_file, certificate.key_file)
    of_client = ssl.create_default_context(cafile=certificate.ca_file)
    of_client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        of_client.wrap_bio(to_client, to_server, server_hostname=name),
        of_server.wrap_bio(to_server, to_client, server_side=True),
    )
    for end in ends * 2:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert ends[0].version() == "TLSv1.3"
    assert ends[0].getpeercert()


def test_the_first_call_makes_a_ca_and_a_certificate(folder: Path) -> None:
    """Whoever trusts the CA trusts the server, by each of its names."""
    certificate = ensure_certificate(folder, ["images.test", "192.0.2.7"])

    for name in ("localhost", "127.0.0.1", "::1", "images.test", "192.0.2.7"):
        shake_hands(certificate, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(certificate, "other.test")


def test_keys_are_for_the_service_alone(folder: Path) -> None:
    """No other user may read a file, whatever the umask."""
    before = os.umask(0)
    try:
        ensure_certificate(folder, [])
    finally:
        os.umask(before)

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (folder, *folder.iterdir())}
    files = ("ca.pem", "ca-key.pem", "server.pem", "server-key.pem")
    assert modes == {"tls": 0o700, **dict.fromkeys(files, 0o600)}


def test_later_calls_change_nothing(folder: Path) -> None:
    """The same names, in whatever order and spelling, find the same CA and the same certificate."""
    ensure_certificate(folder, ["b.test", "a.test"])
    before = contents(folder)

    ensure_certificate(folder, ["A.test", "b.test", "localhost"])

    assert contents(folder) == before


def test_other_names_need_another_certificate_by_the_same_ca(folder: Path) -> None:
    """Clients that trust the CA go on as before."""
    ensure_certificate(folder, ["a.test"])
    before = contents(folder)

    certificate = ensure_certificate(folder, ["b.test"])

    assert names_of(certificate) == {"localhost", "127.0.0.1", "::1", "b.test"}
    after = contents(folder)
    assert [after[name] for name in ("ca.pem", "ca-key.pem")] == [before[name] for name in ("ca.pem", "ca-key.pem")]
    shake_hands(certificate, "b.test")


def test_an_address_for_all_addresses_is_no_name(folder: Path) -> None:
    """Listening on 0.0.0.0 puts nothing into the certificate."""
    certificate = ensure_certificate(folder, ["0.0.0.0", "::"])

    assert names_of(certificate) == {"localhost", "127.0.0.1", "::1"}


def test_a_certificate_is_issued_anew_before_it_ends(folder: Path) -> None:
    """It lives for a year; a start in its last 30 days has another one, which the same CA signs for a year."""
    now = datetime.now(UTC)
    assert lives(ensure_certificate(folder, [], now=now).cert_file, since=now) == timedelta(days=365)
    before = contents(folder)
    ensure_certificate(folder, [], now=now + timedelta(days=334))
    assert contents(folder) == before

    later = now + timedelta(days=336)
    certificate = ensure_certificate(folder, [], now=later)

    assert lives(certificate.cert_file, since=later) == timedelta(days=365)
    assert contents(folder)["ca.pem"] == before["ca.pem"]


def test_a_ca_lives_for_ten_years(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No certificate outlives it, its last year is announced, and after that a start says what to do."""
    caplog.set_level(logging.INFO, "wherry")
    now = datetime.now(UTC)
    certificate = ensure_certificate(folder, [], now=now)
    assert certificate.ca_file is not None
    assert lives(certificate.ca_file, since=now) == timedelta(days=3652)
    assert "tls.ca_ends" not in caplog.text

    certificate = ensure_certificate(folder, [], now=now + timedelta(days=3552))
    assert lives(certificate.cert_file, since=now + timedelta(days=3552)) == timedelta(days=100)
    assert "tls.ca_ends" in caplog.text

    with pytest.raises(BadRequest, match=r"The CA in .*ca.pem ended on .*; remove .*tls: a new CA is made then"):
        ensure_certificate(folder, [], now=now + timedelta(days=3653))


def test_a_ca_signs_for_private_use_and_for_what_it_was_made_for(folder: Path) -> None:
    """For anything else, a start says so, and clients that trust the CA do not believe a certificate by it."""
    ensure_certificate(folder, ["images.example.net", "192.0.2.7", "*.lab.example.org"])
    more = ["deep.images.example.net", "x.lab.example.org", "nas.home.arpa", "10.1.2.3", "fd00::7", "wherry.internal"]
    certificate = ensure_certificate(folder, more)
    for name in more:
        shake_hands(certificate, name)

    before = contents(folder)
    for name in ("example.net", "notimages.example.net", "192.0.2.8", "2001:db8::1", "*.example.org"):
        with pytest.raises(BadRequest, match="not for " + re.escape(name)):
            ensure_certificate(folder, [name])
    assert contents(folder) == before


def test_clients_do_not_believe_what_a_thief_of_the_key_signs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is in the CA's certificate: it holds where wherry's own check does not."""
    ensure_certificate(folder, [])
    monkeypatch.setattr(tls, "_is_permitted", lambda _ca, _name: True)

    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake_hands(ensure_certificate(folder, ["bank.example.com"]), "bank.example.com")
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake_hands(ensure_certificate(folder, ["192.0.2.7"]), "192.0.2.7")


def test_a_ca_of_an_earlier_version_signs_on(folder: Path) -> None:
    """It has no limits; clients were told to trust it."""
    folder.mkdir()
    ca = trustme.CA(path_length=0)
    ca.cert_pem.write_to_path(folder / "ca.pem")
    ca.private_key_pem.write_to_path(folder / "ca-key.pem")

    shake_hands(ensure_certificate(folder, ["images.example.net"]), "images.example.net")

    assert (folder / "ca.pem").read_bytes() == ca.cert_pem.bytes()


def test_openssl_finds_nothing_wrong(folder: Path) -> None:
    """Neither with the chain, by its strict rules, nor with the purpose."""
    certificate = ensure_certificate(folder, ["images.test"])

    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(certificate.ca_file)]
    done = subprocess.run([*command, str(certificate.cert_file)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["server.pem", "server-key.pem"])
@pytest.mark.parametrize("harm", ["cut", "gone", "strange"])
def test_a_server_certificate_that_is_broken_is_issued_anew(folder: Path, name: str, harm: str) -> None:
    """Only the CA is trusted, so what it signed can be had again; so it is after a kill between the two files."""
    other = ensure_certificate(folder.with_name("other"), [])
    strange = {"server.pem": other.cert_file, "server-key.pem": other.key_file}[name].read_bytes()
    file = ensure_certificate(folder, []).ca_file.with_name(name)  # type: ignore[union-attr]  # it has a CA
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(strange if harm == "strange" else file.read_bytes()[:100])

    shake_hands(ensure_certificate(folder, []), "localhost")


def test_a_certificate_by_another_ca_is_issued_anew(folder: Path) -> None:
    """A pair that fits but was not signed by the CA at hand is of no use to those who trust that."""
    other = ensure_certificate(folder.with_name("other"), [])
    mine = ensure_certificate(folder, [])
    mine.cert_file.write_bytes(other.cert_file.read_bytes())
    mine.key_file.write_bytes(other.key_file.read_bytes())

    shake_hands(ensure_certificate(folder, []), "localhost")


@pytest.mark.parametrize("name", ["ca.pem", "ca-key.pem"])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "does not hold"),
        (lambda file: file.unlink(), "can't be read"),
        (lambda file: file.write_bytes(b""), "does not hold"),
    ],
    ids=["cut", "gone", "empty"],
)
def test_a_ca_that_is_broken_is_an_error(folder: Path, name: str, harm: Callable[[Path], object], said: str) -> None:
    """The message names the file and what it should hold, and no other CA takes its place."""
    ensure_certificate(folder, [])
    harm(folder / name)
    before = contents(folder)

    with pytest.raises(BadRequest) as refused:
        ensure_certificate(folder, [])

    assert str(folder / name) in refused.value.message
    assert said in refused.value.message
    assert "in PEM" in refused.value.message
    assert contents(folder) == before


def test_a_ca_with_another_ones_key_is_an_error(folder: Path) -> None:
    """Both files are whole, but do not belong together."""
    ensure_certificate(folder, [])
    ensure_certificate(folder.with_name("other"), [])
    (folder / "ca-key.pem").write_bytes((folder.with_name("other") / "ca-key.pem").read_bytes())

    with pytest.raises(BadRequest, match=r"ca-key.pem is not that of the certificate in .*ca.pem"):
        ensure_certificate(folder, [])


def test_a_certificate_that_may_not_sign_is_no_ca(folder: Path) -> None:
    """A server's certificate in the CA's place is told apart."""
    mine = ensure_certificate(folder, [])
    (folder / "ca.pem").write_bytes(mine.cert_file.read_bytes())
    (folder / "ca-key.pem").write_bytes(mine.key_file.read_bytes())

    with pytest.raises(BadRequest, match="is not a CA's"):
        ensure_certificate(folder, [])


def test_what_a_kill_left_unfinished_is_swept(folder: Path) -> None:
    """Half a CA under its other name hinders nobody."""
    unfinished = folder.with_name("tls.unfinished")
    unfinished.mkdir()
    (unfinished / "ca-key.pem").write_bytes(b"half")

    shake_hands(ensure_certificate(folder, []), "localhost")
    (folder / "server.pem.unfinished").write_bytes(b"half")
    shake_hands(ensure_certificate(folder, ["b.test"]), "b.test")

    assert not unfinished.exists()
    assert len(contents(folder)) == 4


@pytest.mark.parametrize("point", ["tls.before_ca", "tls.between_key_and_certificate"])
def test_an_end_at_any_point_is_made_good(folder: Path, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends while it makes its files makes them the next time."""

    def end(name: str) -> None:
        if name == point:
            raise KeyboardInterrupt

    with monkeypatch.context() as crashing, pytest.raises(KeyboardInterrupt):
        crashing.setattr(tls, "failpoint", end)
        ensure_certificate(folder, [])

    shake_hands(ensure_certificate(folder, []), "localhost")


@pytest.mark.parametrize("name", ["", "a b", "-a", "ä.test", "10.0.0.0/8", "me@a.test", "a..b", "ab--c.test"])
def test_what_is_no_name_is_refused(folder: Path, name: str) -> None:
    """A name that a certificate can't have is said to be none."""
    with pytest.raises(BadRequest):
        ensure_certificate(folder, [name])


def test_a_disk_that_refuses_is_said_to(tmp_path: Path) -> None:
    """A folder that can't be made is an error with its path."""
    with pytest.raises(Unavailable, match="nowhere"):
        ensure_certificate(tmp_path / "nowhere" / "tls", [])


def test_an_own_certificate_is_taken_as_it_is(tmp_path: Path) -> None:
    """Its files are used where they lie, and there is no CA to tell of."""
    cert_file, key_file = own(tmp_path)

    assert own_certificate(cert_file, key_file) == Certificate(cert_file, key_file, ca_file=None)


def test_an_own_certificate_that_does_not_serve_is_refused(tmp_path: Path) -> None:
    """Files that are missing, swapped, foreign or too old: the message names the one that is wrong."""
    cert_file, key_file = own(tmp_path)
    with pytest.raises(BadRequest, match=r"none.pem can't be read \(No such file or directory\)"):
        own_certificate(tmp_path / "none.pem", key_file)
    with pytest.raises(BadRequest, match="own-key.pem does not hold a certificate in PEM"):
        own_certificate(key_file, cert_file)
    with pytest.raises(BadRequest, match="own.pem does not hold a private key in PEM"):
        own_certificate(cert_file, cert_file)
    trustme.CA().private_key_pem.write_to_path(key_file)
    with pytest.raises(BadRequest, match="own-key.pem is not that of the certificate"):
        own_certificate(cert_file, key_file)
    with pytest.raises(BadRequest, match="ended on 2001-02-03"):
        own_certificate(*own(tmp_path, not_after=datetime(2001, 2, 3, tzinfo=UTC)))


def test_a_key_with_a_password_is_refused(tmp_path: Path) -> None:
    """Nobody is there to type it."""
    from cryptography.hazmat.primitives import serialization as s  # noqa: PLC0415

    cert_file, key_file = own(tmp_path)
    key = s.load_pem_private_key(key_file.read_bytes(), None)
    locked = s.BestAvailableEncryption(b"secret")
    key_file.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, locked))

    with pytest.raises(BadRequest, match="own-key.pem does not hold a private key in PEM without a password"):
        own_certificate(cert_file, key_file)
