"""The typed Python client: ``Client`` and ``AsyncClient``, with the same names and signatures."""

from wherry.client.aio import AsyncClient
from wherry.client.operations import CreatedDroplet
from wherry.client.sync import Client
from wherry.client.transport import RequestOptions

__all__ = ["AsyncClient", "Client", "CreatedDroplet", "RequestOptions"]
