"""``wherry account`` and ``wherry compute ssh-key``: whose the token is, and the keys of the account."""

from __future__ import annotations

import click

from wherry import models as m
from wherry.cli.session import Session, asks


@click.group()
def account() -> None:
    """Whose the token is."""


@account.command("get")
@asks
def get_account(session: Session) -> int:
    """Show the account."""
    return session.show(m.Account, session.client.account.retrieve())
