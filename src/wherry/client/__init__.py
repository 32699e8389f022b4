"""The typed Python client: ``Client`` and ``AsyncClient``, with the same names and signatures."""

from wherry.client._async.client import AsyncClient
from wherry.client._sync.client import Client
from wherry.client.files import Exported
from wherry.client.operations import CreatedDroplet
from wherry.client.transport import RequestOptions

__all__ = ["AsyncClient", "Client", "CreatedDroplet", "Exported", "RequestOptions"]
