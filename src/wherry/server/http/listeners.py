"""The addresses that are listened on, and the web server behind them."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

from wherry.errors import BadRequest, Unavailable
from wherry.server.http.connections import Connections, Listener, closing_early
from wherry.server.http.tls import Certificate, ensure_certificate, own_certificate
from wherry.server.machine.descriptors import share_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from wherry.server.settings import Limits, Settings, Tls


log = logging.getLogger("wherry")

_RENEW_EVERY_S = 3600.0


@dataclass(frozen=True)
class Face:
    """An address that is listened on, and the certificate that is shown there; without one, it is plain http.

    ``renewed`` returns the certificate to show from now on, and raises BadRequest or Unavailable if there is none.
    """

    listener: socket.socket
    url: str
    certificate: Certificate | None = None
    renewed: Callable[[], Certificate] | None = None

    def config(self, app: Any, limits: Limits) -> uvicorn.Config:
        """How the web server shows an app here."""
        shown = self.certificate
        return uvicorn.Config(
            app, http="httptools", lifespan="off", access_log=False, log_config=None, server_header=False,
            timeout_graceful_shutdown=2, timeout_keep_alive=limits.idle_s, proxy_headers=False, ws="none",
            ssl_certfile=shown.cert_file if shown else None, ssl_keyfile=shown.key_file if shown else None,
        )  # fmt: skip


class _Server(uvicorn.Server):
    """A server that leaves the signals to ``_run``, for each would take them from the other, and accepts by limits."""

    def __init__(self, face: Face, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self.face = face
        self.listener = face.listener
        self._connections = connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections; uvicorn's own way has no limits."""
        del sockets
        self.servers = [Listener(self.listener, self.config, self.server_state, self._connections)]  # type: ignore[list-item]  # what it uses of an asyncio.Server
        self.started = True

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # a generator's more narrow type
        return nullcontext()


async def _run(servers: list[_Server], connections: Connections) -> None:
    """Serve one app at several addresses until a signal stops all of them."""

    def stop(number: int) -> None:
        for server in servers:
            server.handle_exit(number, None)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    tasks = [asyncio.create_task(connections.watch()), asyncio.create_task(_keep_renewed(servers))]
    await asyncio.gather(*(server.serve(sockets=[server.listener]) for server in servers))
    for task in tasks:
        task.cancel()


async def _keep_renewed(servers: list[_Server]) -> None:
    while True:
        await asyncio.sleep(_RENEW_EVERY_S)
        for server in servers:
            await show_renewed(server.face, server.config)


async def show_renewed(face: Face, config: uvicorn.Config) -> None:
    """Show new connections the certificate that is valid now; if there is none, they get the one before."""
    if face.renewed is None or config.ssl is None:
        return
    try:
        certificate = await asyncio.to_thread(face.renewed)
        config.ssl.load_cert_chain(certificate.cert_file, certificate.key_file)  # here, where connections are accepted
    except (BadRequest, Unavailable) as error:
        log.warning("tls.not_renewed %s", error.message)
    except OSError as error:  # an operator is about to replace its files
        log.warning("tls.not_renewed The certificate's files can't be used: %s.", error.strerror)


def take_addresses(settings: Settings) -> list[Face]:
    """Take the addresses; the first is plain http, the one with TLS may stand beside it.

    Raises Unavailable if one is taken, BadRequest for a certificate that can't be used.
    """
    return list(_faces(settings))


def take_address(host: str, port: int) -> Face:
    """Take one address for plain http. Raises Unavailable if it is taken."""
    listener = _listen(host, port)
    return Face(listener, _url("http", *listener.getsockname()[:2]))


def run_servers(faces: Sequence[Face], app: Any, limits: Limits) -> None:
    """Serve an app at all addresses until a signal stops it."""
    connections = Connections(limits, share_descriptors(limits.connections).connections)
    app = closing_early(app)
    servers = [_Server(face, face.config(app, limits), connections) for face in faces]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(servers, connections))


def _faces(settings: Settings) -> Iterator[Face]:
    yield take_address(settings.host, settings.port)
    if tls := settings.tls:
        renewed = partial(_certificate, tls, settings.data.resolve() / "tls")
        certificate = renewed()
        listener = _listen(tls.host, tls.port)
        # By the name that the certificate has: the address behind it may not be in there, and 0.0.0.0 is in none.
        host = "localhost" if tls.host in {"0.0.0.0", "::"} else tls.host  # noqa: S104  nothing is bound here
        yield Face(listener, _url("https", host, listener.getsockname()[1]), certificate, renewed)


def _certificate(tls: Tls, folder: Path) -> Certificate:
    return own_certificate(*tls.own) if tls.own else ensure_certificate(folder, [tls.host, *tls.names])


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise Unavailable(f"The address {host}:{port} can't be listened on: {error.strerror}.") from error
