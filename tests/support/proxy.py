"""A network that fails: a TCP proxy on loopback that can be cut, slowed down, or made to lose connections."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from contextlib import suppress
from typing import Self

_PIECE = 1 << 16
_GLANCE_S = 0.05


class TcpProxy:
    """Passes connections on to ``host:port`` as long as the context is open. Its settings may be changed meanwhile.

    ``delay_s`` is waited before each piece of data goes on, either way; ``bytes_per_s`` is the most that a connection
    carries each way; and of all connections, every ``lose_every``-th breaks after ``lose_after`` bytes.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.lose_every: int | None = None
        self.lose_after = 20_000
        self._open = threading.Event()  # clear: nothing passes
        self._open.set()
        self._refuses = False
        self._ended = threading.Event()
        self._count = itertools.count(1)
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.host = "127.0.0.1"
        self.lost = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._open.set()
        self._listener.close()
        self.reset()

    def cut(self) -> None:
        """Let nothing through, as a network does that is cut: connections stay open, and nobody is told."""
        self._open.clear()

    def refuse(self) -> None:
        """Break all connections, and take no new ones, as where the other side is gone."""
        self._refuses = True
        self.reset()

    def mend(self) -> None:
        """Let all through again; what was kept back arrives."""
        self._refuses = False
        self._open.set()

    def reset(self) -> None:
        """Break the connections that there are."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            _break(one)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(near,), name="proxy-connect", daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        if self._refuses:
            _break(near)
            return
        self._wait_open()
        try:
            far = socket.create_connection(self._target)
        except OSError:
            _break(near)
            return
        number = next(self._count)
        left = self.lose_after if self.lose_every and number % self.lose_every == 0 else None
        with self._lock:
            self._sockets |= {near, far}
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=self._carry, args=(far, near, left), name="proxy-back", daemon=True)
        back.start()
        self._carry(near, far, left)
        back.join()
        with self._lock:
            self._sockets -= {near, far}
        near.close()
        far.close()

    def _carry(self, source: socket.socket, target: socket.socket, left: int | None) -> None:
        """Pass on what comes until there is no more; a connection of which only so much is ``left`` breaks then."""
        try:
            while data := source.recv(_PIECE):
                self._hold_back(len(data))
                if left is not None and (left := left - len(data)) < 0:
                    self.lost += 1
                    raise OSError("lost")
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            _break(source)
            _break(target)

    def _hold_back(self, size: int) -> None:
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.bytes_per_s:
            time.sleep(size / self.bytes_per_s)
        self._wait_open()

    def _wait_open(self) -> None:
        while not self._open.wait(_GLANCE_S) and not self._ended.is_set():
            pass


def _break(one: socket.socket) -> None:
    """Close a connection at once, so that the other side hears of it as of an error."""
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        one.close()
