# Generated from ../_async/client.py by scripts/sync_client.py: change that file, then run make sync-client.
"""``Client``: every call by its name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from wherry import models as m
from wherry.client import operations as ops
from wherry.client._sync.droplets import GpuDroplets
from wherry.client._sync.resource import Pages, Resource
from wherry.client._sync.tags import Tags
from wherry.client._sync.transport import Transport
from wherry.client.transport import Connection, RequestOptions
from wherry.client.watch import STALL_TIMEOUT_S, Watch
from wherry.errors import ConnectionFailed, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    import httpx2


class Client:
    """A client of wherry, or of DigitalOcean's API v2.

    ``token`` and ``base_url`` come from the environment where they are not given (``WHERRY_TOKEN``, ``WHERRY_URL``,
    then DigitalOcean's variables). ``timeout`` is in seconds and for one attempt, ``retries`` how often a request that
    may be repeated is sent again. ``ca_file`` (``WHERRY_CA_FILE``) is a file of the CAs to trust, in PEM, instead of
    the usual ones; an ``http`` that is given trusts whom it does. Raises Unauthorized where there is no token.
    """

    def __init__(
        self, token: str | None = None, base_url: str | None = None, *, timeout: float = 60.0, retries: int = 3,
        ca_file: str | Path | None = None, http: httpx2.Client | None = None,
    ) -> None:  # fmt: skip
        self._transport = Transport(Connection.find(token, base_url, timeout, retries, ca_file), http)
        self.account = AccountResource(self._transport)
        self.actions = Actions(self._transport)
        self.regions = Regions(self._transport)
        self.sizes = Sizes(self._transport)
        self.store = StoreResource(self._transport)
        self.gpu_droplets = GpuDroplets(self._transport)
        self.tags = Tags(self._transport)
        self.testing = Testing(self._transport)

    def close(self) -> None:
        """Let go of the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Actions(Resource):
    """Actions of all kinds."""

    def list(self, *, options: RequestOptions | None = None) -> Pages[m.Action]:
        """All actions, newest first."""
        return Pages(lambda page: self._transport.send(ops.list_actions(page), options))

    def retrieve(self, action_id: int, *, options: RequestOptions | None = None) -> m.Action:
        """Read an action."""
        return self._transport.send(ops.get_action(action_id), options)

    def cancel(self, action_id: int, *, options: RequestOptions | None = None) -> m.Action:
        """Ask that an action stop (wherry only); it then ends as errored with the code ``cancelled``."""
        return self._transport.send(ops.cancel_action(action_id), options)

    def wait(
        self, action: m.Action, *, on_progress: Callable[[m.Action], object] | None = None,
        stall_timeout_s: float | None = STALL_TIMEOUT_S, options: RequestOptions | None = None,
    ) -> m.Action:  # fmt: skip
        """Wait until an action is completed, however long it takes, as long as it moves, and return its last state.

        ``on_progress`` hears every state that is seen. A service that is away for a while is waited for as well.
        Raises ActionErrored when the action errored, ActionTimeout when it did not move for ``stall_timeout_s``
        seconds (None: never); it goes on then, unwatched.
        """
        watch = Watch(action, on_progress, stall_timeout_s)
        delay = watch.see(action)
        while delay is not None:
            time.sleep(delay)
            try:
                delay = watch.see(self.retrieve(action.id, options=options))
            except (ConnectionFailed, RequestError) as error:
                delay = watch.lost(error)
        return watch.action


class Regions(Resource):
    """Regions."""

    def list(self, *, options: RequestOptions | None = None) -> Pages[m.Region]:
        """The regions."""
        return Pages(lambda page: self._transport.send(ops.list_regions(page), options))


class Sizes(Resource):
    """Sizes."""

    def list(self, *, options: RequestOptions | None = None) -> Pages[m.Size]:
        """The sizes."""
        return Pages(lambda page: self._transport.send(ops.list_sizes(page), options))


class AccountResource(Resource):
    """The account that the token belongs to."""

    def retrieve(self, *, options: RequestOptions | None = None) -> m.Account:
        """Read it."""
        return self._transport.send(ops.get_account(), options)


class StoreResource(Resource):
    """What the service keeps behind its images (wherry only)."""

    def collect(self, *, region: str | None = None, options: RequestOptions | None = None) -> m.Action:
        """Remove unreferenced objects from the stores."""
        return self._transport.send(ops.collect(region), options)

    def plan_collect(self, *, region: str | None = None, options: RequestOptions | None = None) -> list[m.CollectPlan]:
        """What ``collect`` would remove, by region."""
        return self._transport.send(ops.plan_collect(region), options)

    def compact(
        self, *, region: str | None = None, budget_bytes: int | None = None, options: RequestOptions | None = None
    ) -> m.Action:
        """Rewrite packs that are more than half dead; ``budget_bytes`` at the most, or nearly so."""
        return self._transport.send(ops.compact(region, budget_bytes), options)

    def plan_compact(
        self, *, region: str | None = None, budget_bytes: int | None = None, options: RequestOptions | None = None
    ) -> list[m.CompactPlan]:
        """What ``compact`` would rewrite, by region."""
        return self._transport.send(ops.plan_compact(region, budget_bytes), options)

    def usage(self, *, options: RequestOptions | None = None) -> list[m.RegionUsage]:
        """What is in the stores, by region. Raises Forbidden for others than the operator."""
        return self._transport.send(ops.get_usage(), options)

    def scrub(self, *, region: str, options: RequestOptions | None = None) -> m.Action:
        """Check every stored byte of a region; damage is healed then. It takes the operator's token."""
        return self._transport.send(ops.scrub(region), options)

    def expire(self, *, options: RequestOptions | None = None) -> m.Action:
        """Let backups go whose time is over. Raises RequestError."""
        return self._transport.send(ops.expire(), options)

    def plan_expire(self, *, options: RequestOptions | None = None) -> list[m.ExpiryPlan]:
        """Which backups ``expire`` would let go, and since when their time is over."""
        return self._transport.send(ops.plan_expire(), options)


class Testing(Resource):
    """Controls for tests, of a service that runs in test mode; others raise NotFound."""

    def advance_clock(self, seconds: float, *, options: RequestOptions | None = None) -> datetime:
        """Move the service's clock ahead; what falls due on the way happens at its time. Returns the new time."""
        return self._transport.send(ops.move_clock(None, seconds), options)

    def set_clock(self, now: datetime, *, options: RequestOptions | None = None) -> datetime:
        """Set the service's clock to a time with a time zone, and return it."""
        return self._transport.send(ops.move_clock(now, None), options)

    def backup(self, droplet_id: int, *, options: RequestOptions | None = None) -> m.Action:
        """Take a backup of a Droplet now, whatever its policy. Raises NotFound, and Unprocessable while it is busy."""
        return self._transport.send(ops.take_backup(droplet_id), options)

    def fail_next(
        self, action: str, *, error: str = "store_unavailable", region: str | None = None, times: int = 1,
        options: RequestOptions | None = None,
    ) -> None:  # fmt: skip
        """Let the next ``times`` actions of a type (and in a region) end as errored, with this code.

        0 times takes back what was asked before. Raises RequestError for a type or a code that there is not.
        """
        request = m.FaultRequest(action=action, error=error, region=region, times=times)
        self._transport.send(ops.let_fail(request), options)
