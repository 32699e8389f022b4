from __future__ import annotations

import asyncio
import logging
import ssl
from functools import partial
from typing import TYPE_CHECKING

import pytest

from wherry.server.http.listeners import Face, show_renewed, take_address
from wherry.server.http.tls import Certificate, ensure_certificate
from wherry.server.settings import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import uvicorn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a local CA is kept."""
    return tmp_path / "tls"


@pytest.fixture
def names() -> list[str]:
    """What the certificate is for, besides localhost."""
    return []


@pytest.fixture
def face(folder: Path, names: list[str]) -> Iterator[Face]:
    """An address with TLS, whose certificate is for the names there are when it is renewed."""
    plain = take_address("127.0.0.1", 0)
    yield Face(plain.listener, plain.url, ensure_certificate(folder, names), partial(ensure_certificate, folder, names))
    plain.listener.close()


@pytest.fixture
def config(face: Face) -> uvicorn.Config:
    """How it is served."""
    config = face.config(None, Limits())
    config.load()
    return config


def shown_to(config: uvicorn.Config, name: str, ca_file: Path | None) -> bool:
    """Whether a client that trusts the CA finds the server's certificate to be for a name."""
    assert config.ssl is not None
    client = ssl.create_default_context(cafile=ca_file)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        config.ssl.wrap_bio(to_server, to_client, server_side=True),
    )
    for end in ends * 2:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_a_renewed_certificate_is_shown_to_new_connections(
    face: Face, config: uvicorn.Config, names: list[str]
) -> None:
    """Without a restart; one that is still good stays."""
    assert face.certificate is not None
    ca_file = face.certificate.ca_file
    before = face.certificate.cert_file.read_bytes()
    asyncio.run(show_renewed(face, config))
    assert face.certificate.cert_file.read_bytes() == before
    assert not shown_to(config, "images.test", ca_file)

    names.append("images.test")
    asyncio.run(show_renewed(face, config))

    assert shown_to(config, "images.test", ca_file)


def test_a_certificate_that_can_not_be_renewed_stays(
    face: Face, config: uvicorn.Config, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why; the service goes on, also while its files are being replaced."""
    caplog.set_level(logging.WARNING, "wherry")
    (folder / "ca-key.pem").unlink()
    asyncio.run(show_renewed(face, config))
    assert "ca-key.pem can't be read" in caplog.text

    gone = Face(face.listener, face.url, renewed=lambda: Certificate(folder / "none.pem", folder / "none-key.pem"))
    asyncio.run(show_renewed(gone, config))
    assert "can't be used: No such file or directory" in caplog.text
    assert shown_to(config, "localhost", folder / "ca.pem")


def test_plain_http_has_nothing_to_renew() -> None:
    """And is left alone."""
    face = take_address("127.0.0.1", 0)
    config = face.config(None, Limits())
    config.load()
    asyncio.run(show_renewed(face, config))
    assert config.ssl is None
    face.listener.close()
