"""Gives the files of a folder out over HTTP on loopback, by sendfile: as little work as a server can do."""

from __future__ import annotations

import socketserver
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Serve a folder from a process of its own. Gives the URL."""
    with subprocess.Popen([sys.executable, __file__, folder], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


class Handler(socketserver.StreamRequestHandler):
    """One request a connection."""

    def handle(self) -> None:
        """Answer with the file that the request names."""
        path = unquote(self.rfile.readline().split()[1].decode()).lstrip("/")
        while self.rfile.readline().strip():
            pass
        with (Path(sys.argv[1]) / path).open("rb") as file:
            size = file.seek(0, 2)
            self.request.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n".encode())
            self.request.sendfile(file)


if __name__ == "__main__":
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
