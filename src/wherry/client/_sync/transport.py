# Generated from ../_async/transport.py by scripts/sync_client.py: change that file, then run make sync-client.
"""The transport of ``Client``: sends a request, and sends it again where that is safe and may help."""

from __future__ import annotations

import time
from typing import TypeVar

import httpx2

from wherry.client.transport import (
    FIRST_ERROR,
    Connection,
    Request,
    RequestOptions,
    delay_after_break,
    delay_after_refusal,
    read,
)

T = TypeVar("T")


class Transport:
    """Sends requests and waits for their replies."""

    def __init__(self, connection: Connection, http: httpx2.Client | None = None) -> None:
        self.connection = connection
        self.http = http or httpx2.Client(verify=connection.verify)

    def send(self, request: Request[T], options: RequestOptions | None = None) -> T:
        """Send a request and read its reply. Raises RequestError or ConnectionFailed."""
        options = options or RequestOptions()
        for left in reversed(range(self.connection.attempts(options))):
            try:
                response = self.http.request(**self.connection.build(request, options))
            except httpx2.HTTPError as error:
                delay = delay_after_break(request, error, left)
            else:
                if response.status_code < FIRST_ERROR:
                    return read(request, response)
                delay = delay_after_refusal(request, response, left)
            time.sleep(delay)
        raise AssertionError  # the last attempt returns or raises

    def close(self) -> None:
        """Close the connections."""
        self.http.close()
