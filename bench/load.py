"""A load of HTTP requests over kept connections, the same for every server that is measured."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONNECTIONS = 32


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def rate(port: int, requests: Sequence[bytes], expected: int) -> float:
    """Requests a second, all of which must answer with the expected status. Raises RuntimeError for another one."""
    began = time.perf_counter()
    asyncio.run(_send_all(port, requests, expected))
    return len(requests) / (time.perf_counter() - began)


async def _send_all(port: int, requests: Sequence[bytes], expected: int) -> None:
    left = iter(requests)
    await asyncio.gather(*[_send(port, left, expected) for _ in range(min(CONNECTIONS, len(requests)))])


async def _send(port: int, requests: Iterable[bytes], expected: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for one in requests:
        writer.write(one)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        body = await reader.readexactly(length)
        if int(head.split(maxsplit=2)[1]) != expected:
            raise RuntimeError(f"{expected} was expected: {head.decode()}{body[:300].decode(errors='replace')}")
        if b"connection: close" in head.lower():
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()
