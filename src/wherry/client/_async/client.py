"""``AsyncClient``: every call by its name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from wherry import models as m
from wherry.client import operations as ops
from wherry.client._async.droplets import GpuDroplets
from wherry.client._async.resource import AsyncPages, AsyncResource
from wherry.client._async.tags import Tags
from wherry.client._async.transport import AsyncTransport
from wherry.client.transport import Connection, RequestOptions
from wherry.client.watch import STALL_TIMEOUT_S, Watch
from wherry.errors import ConnectionFailed, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    import httpx2


class AsyncClient:
    """A client of wherry, or of DigitalOcean's API v2.

    Args:
        token: Default: ``WHERRY_TOKEN`` or DigitalOcean's variables in the environment.
        base_url: Default: ``WHERRY_URL`` or DigitalOcean's variables in the environment.
        timeout: Seconds for one attempt of a request.
        retries: How often a request that is safe to repeat is sent again.
        ca_file: A file of the CAs to trust, in PEM, instead of the system's. Default: ``WHERRY_CA_FILE``.
        http: A client of httpx2 to send requests with. Its own settings decide which CAs are trusted.

    Raises:
        Unauthorized: there is no token.
    """

    def __init__(
        self, token: str | None = None, base_url: str | None = None, *, timeout: float = 60.0, retries: int = 3,
        ca_file: str | Path | None = None, http: httpx2.AsyncClient | None = None,
    ) -> None:  # fmt: skip
        self._transport = AsyncTransport(Connection.find(token, base_url, timeout, retries, ca_file), http)
        self.account = AccountResource(self._transport)
        self.actions = Actions(self._transport)
        self.regions = Regions(self._transport)
        self.sizes = Sizes(self._transport)
        self.store = StoreResource(self._transport)
        self.gpu_droplets = GpuDroplets(self._transport)
        self.tags = Tags(self._transport)
        self.testing = Testing(self._transport)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Actions(AsyncResource):
    """Actions of all kinds."""

    def list(self, *, options: RequestOptions | None = None) -> AsyncPages[m.Action]:
        """All actions, newest first."""
        return AsyncPages(lambda page: self._transport.send(ops.list_actions(page), options))

    async def retrieve(self, action_id: int, *, options: RequestOptions | None = None) -> m.Action:
        """Read an action."""
        return await self._transport.send(ops.get_action(action_id), options)

    async def cancel(self, action_id: int, *, options: RequestOptions | None = None) -> m.Action:
        """Cancel an action (wherry only). It ends as errored, with the code ``cancelled``."""
        return await self._transport.send(ops.cancel_action(action_id), options)

    async def wait(
        self, action: m.Action, *, on_progress: Callable[[m.Action], object] | None = None,
        stall_timeout_s: float | None = STALL_TIMEOUT_S, options: RequestOptions | None = None,
    ) -> m.Action:  # fmt: skip
        """Wait until an action is completed, however long it takes, and return its last state.

        A service that is out of reach for a while is waited for too.

        Args:
            action: The action, in any state.
            on_progress: Called with every state that is read.
            stall_timeout_s: Seconds without progress after which the wait is given up; None: never.
            options: Options of each request.

        Raises:
            ActionErrored: the action errored.
            ActionTimeout: the action made no progress for ``stall_timeout_s``. It goes on, without being watched.
        """
        watch = Watch(action, on_progress, stall_timeout_s)
        delay = watch.see(action)
        while delay is not None:
            await asyncio.sleep(delay)
            try:
                delay = watch.see(await self.retrieve(action.id, options=options))
            except (ConnectionFailed, RequestError) as error:
                delay = watch.lost(error)
        return watch.action


class Regions(AsyncResource):
    """Regions."""

    def list(self, *, options: RequestOptions | None = None) -> AsyncPages[m.Region]:
        """The regions."""
        return AsyncPages(lambda page: self._transport.send(ops.list_regions(page), options))


class Sizes(AsyncResource):
    """Sizes."""

    def list(self, *, options: RequestOptions | None = None) -> AsyncPages[m.Size]:
        """The sizes."""
        return AsyncPages(lambda page: self._transport.send(ops.list_sizes(page), options))


class AccountResource(AsyncResource):
    """The account that the token belongs to."""

    async def retrieve(self, *, options: RequestOptions | None = None) -> m.Account:
        """Read the account."""
        return await self._transport.send(ops.get_account(), options)


class StoreResource(AsyncResource):
    """The stores behind the images (wherry only)."""

    async def collect(self, *, region: str | None = None, options: RequestOptions | None = None) -> m.Action:
        """Remove unreferenced objects from the stores."""
        return await self._transport.send(ops.collect(region), options)

    async def plan_collect(
        self, *, region: str | None = None, options: RequestOptions | None = None
    ) -> list[m.CollectPlan]:
        """What ``collect`` would remove, by region."""
        return await self._transport.send(ops.plan_collect(region), options)

    async def compact(
        self, *, region: str | None = None, budget_bytes: int | None = None, options: RequestOptions | None = None
    ) -> m.Action:
        """Rewrite packs of which less than half is needed, about ``budget_bytes`` at most."""
        return await self._transport.send(ops.compact(region, budget_bytes), options)

    async def plan_compact(
        self, *, region: str | None = None, budget_bytes: int | None = None, options: RequestOptions | None = None
    ) -> list[m.CompactPlan]:
        """What ``compact`` would rewrite, by region."""
        return await self._transport.send(ops.plan_compact(region, budget_bytes), options)

    async def usage(self, *, options: RequestOptions | None = None) -> list[m.RegionUsage]:
        """What is in the stores, by region. Raises Forbidden unless the token is the operator's."""
        return await self._transport.send(ops.get_usage(), options)

    async def scrub(self, *, region: str, options: RequestOptions | None = None) -> m.Action:
        """Check every stored byte of a region, and heal damage. Needs the operator's token."""
        return await self._transport.send(ops.scrub(region), options)

    async def expire(self, *, options: RequestOptions | None = None) -> m.Action:
        """Delete expired backups. Raises RequestError."""
        return await self._transport.send(ops.expire(), options)

    async def plan_expire(self, *, options: RequestOptions | None = None) -> list[m.ExpiryPlan]:
        """The backups that ``expire`` would delete, and when each expired."""
        return await self._transport.send(ops.plan_expire(), options)


class Testing(AsyncResource):
    """Controls for tests, of a service that runs in test mode; others raise NotFound."""

    async def advance_clock(self, seconds: float, *, options: RequestOptions | None = None) -> datetime:
        """Move the service's clock ahead; what falls due on the way happens at its time. Returns the new time."""
        return await self._transport.send(ops.move_clock(None, seconds), options)

    async def set_clock(self, now: datetime, *, options: RequestOptions | None = None) -> datetime:
        """Set the service's clock to a time with a time zone, and return it."""
        return await self._transport.send(ops.move_clock(now, None), options)

    async def backup(self, droplet_id: int, *, options: RequestOptions | None = None) -> m.Action:
        """Take a backup of a Droplet now, whatever its policy. Raises NotFound, and Unprocessable while it is busy."""
        return await self._transport.send(ops.take_backup(droplet_id), options)

    async def fail_next(
        self, action: str, *, error: str = "store_unavailable", region: str | None = None, times: int = 1,
        options: RequestOptions | None = None,
    ) -> None:  # fmt: skip
        """Make the next ``times`` actions of a type, or of a type in a region, end as errored with this code.

        0 times cancels an earlier call. Raises RequestError for an unknown type or code.
        """
        request = m.FaultRequest(action=action, error=error, region=region, times=times)
        await self._transport.send(ops.let_fail(request), options)
