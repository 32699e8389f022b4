"""The door for what runs a Droplet's disk as a machine. There is no such driver yet: a Droplet here is its disk.

A driver is called for every action before the catalog says that it is done, from a step of the action's workflow; so a
machine that must stop before its disk is restored, or write out what it has in memory before a snapshot, does so first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from wherry.server.rules.records import ActionRecord, DropletRecord


class Driver(Protocol):
    """What turns Droplets into machines."""

    def carry_out(self, droplet: DropletRecord, action: ActionRecord) -> None:
        """Make the machine follow an action (``action.type``), whose effect on the catalog comes after it.

        It may be called twice for one action and must do no more then. What it raises ends the action as errored, and
        the catalog stays as it was; an error that says it is retryable is tried again before that.
        """


class NoMachine:
    """The driver where a Droplet is its disk alone."""

    def carry_out(self, droplet: DropletRecord, action: ActionRecord) -> None:
        """There is no machine."""
