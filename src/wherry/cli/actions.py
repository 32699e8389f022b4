"""``wherry compute action``: actions of all kinds."""

from __future__ import annotations

import click

from wherry import models as m
from wherry.cli.session import Session, asks, wait_option


@click.group()
def action() -> None:
    """Actions of all kinds."""


@action.command("list")
@asks
def list_actions(session: Session) -> int:
    """List actions, newest first."""
    return session.show(m.Action, *session.client.actions.list())


@action.command("get")
@click.argument("action_id", type=int)
@asks
def get_action(session: Session, action_id: int) -> int:
    """Show an action."""
    return session.show(m.Action, session.client.actions.retrieve(action_id))


@action.command("wait")
@click.argument("action_id", type=int)
@click.option("--stall-timeout", type=float, help="Stop if the action makes no progress for this many seconds.")
@asks
def wait_for_action(session: Session, action_id: int, stall_timeout: float | None) -> int:
    """Show the progress of an action until it ends."""
    return session.wait(session.client.actions.retrieve(action_id), stall_timeout)


@action.command("cancel")
@click.argument("action_id", type=int)
@wait_option
@asks
def cancel_action(session: Session, action_id: int, *, wait: bool) -> int:
    """Cancel an action."""
    return session.finish(session.client.actions.cancel(action_id), wait=wait)
