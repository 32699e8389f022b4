from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx2
import pytest
import trustme

from wherry import AsyncClient, CertificateNotTrusted, Client
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ARGUMENTS = ("--test-mode", "--no-public-images")
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service with TLS, shared by the tests here."""
    with ServiceProcess(tmp_path_factory.mktemp("tls") / "data", arguments=ARGUMENTS, tls=True) as service:
        yield service


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wherry", *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, "WHERRY_TOKEN": TOKEN, **environment}, timeout=60,
    )  # fmt: skip


def test_https_serves_those_who_trust_the_ca(secure: ServiceProcess, tmp_path: Path) -> None:
    """An image goes in and comes out by https, byte for byte."""
    (tmp_path / "disk.img").write_bytes(os.urandom(3 << 20))
    with Client(TOKEN, secure.tls_url, ca_file=secure.ca_file) as client:
        images = client.gpu_droplets.images
        action = client.actions.wait(images.upload(tmp_path / "disk.img", name="disk", region="nyc3"))
        assert action.resource_id is not None
        images.export(action.resource_id, tmp_path / "out.img")

    assert (tmp_path / "out.img").read_bytes() == (tmp_path / "disk.img").read_bytes()


def test_the_async_client_trusts_the_ca_as_well(secure: ServiceProcess) -> None:
    """It takes the same argument; without it, it raises the same error."""

    async def count(ca_file: Path | None) -> int:
        async with AsyncClient(TOKEN, secure.tls_url, ca_file=ca_file) as client:
            return await client.regions.list().total()

    assert asyncio.run(count(secure.ca_file)) > 0
    with pytest.raises(CertificateNotTrusted):
        asyncio.run(count(None))


def test_https_fails_for_those_who_do_not_trust_the_ca(secure: ServiceProcess) -> None:
    """The command line says why in a line, what to do in another, and exits with 1; told the CA, it works."""
    arguments = ("compute", "region", "list", "--url", secure.tls_url)

    refused = run(*arguments)
    assert refused.returncode == 1
    assert f"Error: The certificate of {secure.tls_url} is not trusted" in refused.stderr
    assert "Hint: Say which CA to trust with --ca-file, WHERRY_CA_FILE" in refused.stderr
    assert "Traceback" not in refused.stderr

    assert run(*arguments, "--ca-file", secure.ca_file).returncode == 0
    assert run(*arguments, WHERRY_CA_FILE=str(secure.ca_file)).returncode == 0


def test_a_name_that_the_certificate_lacks_is_said(tmp_path: Path) -> None:
    """The error names the host, and the hint the option that adds it; with that, the host is known."""
    arguments = (*ARGUMENTS, "--tls-name", "127.0.0.2")
    listen = ("--tls-listen", "0.0.0.0:0")  # the last one counts
    with ServiceProcess(tmp_path / "data", arguments=(*ARGUMENTS, *listen), tls=True) as service:
        assert service.tls_url.startswith("https://localhost:")
        url = service.tls_url.replace("localhost", "127.0.0.2")
        with (
            Client(TOKEN, url, ca_file=service.ca_file) as client,
            pytest.raises(CertificateNotTrusted, match=r"not valid for '127\.0\.0\.2'\.$") as refused,
        ):
            client.regions.list().all()
        assert "--tls-name" in refused.value.hint

    with ServiceProcess(tmp_path / "data", arguments=(*arguments, *listen), tls=True) as service:
        url = service.tls_url.replace("localhost", "127.0.0.2")
        with Client(TOKEN, url, ca_file=service.ca_file) as client:
            assert client.regions.list().total() > 0


def test_links_have_the_scheme_that_was_asked_by(secure: ServiceProcess) -> None:
    """Pages asked for by https link to https, those asked for by http, which goes on beside it, to http."""
    trusting = httpx2.Client(verify=Client(TOKEN, ca_file=secure.ca_file)._transport.connection.verify)
    with trusting:
        for url in (secure.tls_url, secure.url):
            pages = trusting.get(f"{url}/v2/regions?per_page=2", headers=AUTHORIZED).json()["links"]["pages"]
            assert all(link.startswith(f"{url}/v2/regions?") for link in pages.values()), pages
    assert secure.tls_url.startswith("https://")
    assert secure.url.startswith("http://")


def test_the_ca_outlives_the_process(tmp_path: Path) -> None:
    """After a kill and after a stop, a client that trusts the CA goes on as if nothing had been."""
    service = ServiceProcess(tmp_path / "data", arguments=ARGUMENTS, tls=True)
    with service, Client(TOKEN, service.tls_url, ca_file=service.ca_file) as client:
        ca = service.ca_file.read_bytes()
        service.kill()
        service.start()
        assert client.regions.list().total() > 0
    with service, Client(TOKEN, service.tls_url, ca_file=service.ca_file) as client:
        assert client.regions.list().total() > 0
    assert service.ca_file.read_bytes() == ca


@pytest.mark.parametrize("point", ["tls.before_ca", "tls.between_key_and_certificate"])
def test_a_kill_while_the_files_are_made_is_made_good(tmp_path: Path, point: str) -> None:
    """The next start has a CA that is whole and a certificate by it."""
    service = ServiceProcess(tmp_path / "data", arguments=ARGUMENTS, tls=True)
    with pytest.raises(RuntimeError, match="ended with -9"):
        service.start({"WHERRY_CRASH_AT": point})

    with service, Client(TOKEN, service.tls_url, ca_file=service.ca_file) as client:
        assert client.regions.list().total() > 0


def test_one_signal_stops_both(tmp_path: Path) -> None:
    """SIGTERM ends the service in good order, with status 0, also while a client keeps its connection."""
    service = ServiceProcess(tmp_path / "data", arguments=ARGUMENTS, tls=True)
    with service, Client(TOKEN, service.tls_url, ca_file=service.ca_file) as client:
        client.regions.list().all()
        service.stop()
        assert service.wait() == 0
    assert "serve.stopped" in service.log.read_text()


def test_an_own_certificate_is_shown(tmp_path: Path) -> None:
    """The operator's certificate implies --tls, and no CA is made."""
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    issued.private_key_pem.write_to_path(tmp_path / "own-key.pem")
    arguments = (*ARGUMENTS, "--tls-cert", str(tmp_path / "own.pem"), "--tls-key", str(tmp_path / "own-key.pem"))

    with ServiceProcess(tmp_path / "data", arguments=arguments, tls=True) as service:
        with Client(TOKEN, service.tls_url, ca_file=tmp_path / "ca.pem") as client:
            assert client.regions.list().total() > 0
        assert not service.ca_file.exists()
        assert "export WHERRY_CA_FILE" not in service.log.read_text()


def test_a_broken_file_stops_the_start(tmp_path: Path) -> None:
    """A certificate, key or CA that is none: a line that names it, status 1, no traceback, and no token is made."""
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    data = tmp_path / "data"
    (data / "tls").mkdir(parents=True)
    (data / "tls" / "ca.pem").write_text("nothing")
    serve = ("serve", "--data", data, "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0")

    for options, named in (
        (("--tls-cert", bad, "--tls-key", bad), bad),
        (("--tls-cert", tmp_path / "none.pem", "--tls-key", bad), tmp_path / "none.pem"),
        (("--tls",), data / "tls" / "ca.pem"),
    ):
        failed = run(*serve, *options)
        assert (failed.returncode, failed.stdout) == (1, ""), failed.stderr
        assert f"Error: {named} " in failed.stderr
        assert "Traceback" not in failed.stderr
    assert not (data / "catalog.db").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-cert", "a.pem"], "go together"),
        (["--tls-name", "a.test"], "need --tls"),
        (["--tls-listen", "127.0.0.1:0"], "need --tls"),
        (["--tls", "--tls-listen", "8443:"], "HOST:PORT is wanted"),
        (["--tls-cert", "a.pem", "--tls-key", "b.pem", "--tls-name", "a.test"], "has its names"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path: Path, options: list[str], said: str) -> None:
    """What can't be done as it was asked for is not passed over in silence."""
    failed = run("serve", "--data", tmp_path / "data", *options)

    assert failed.returncode == 1
    assert said in failed.stderr
