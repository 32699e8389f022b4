"""``wherry collect`` and ``wherry expire``, by which bytes and backups go, and ``wherry scrub``, which checks them."""

from __future__ import annotations

import click

from wherry import models as m
from wherry.cli.session import Session, asks, wait_option


@click.command()
@click.option("--region", help="Only in this region.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@wait_option
@asks
def collect(session: Session, region: str | None, *, dry_run: bool, wait: bool) -> int:
    """Remove from the stores what nobody holds."""
    if dry_run:
        return session.show(m.CollectPlan, *session.client.store.plan_collect(region=region))
    return session.finish(session.client.store.collect(region=region), wait=wait)


@click.command()
@click.option("--region", required=True, help="Which region.")
@wait_option
@asks
def scrub(session: Session, region: str, *, wait: bool) -> int:
    """Check every stored byte of a region; what is damaged is healed."""
    return session.finish(session.client.store.scrub(region=region), wait=wait)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say which would go.")
@wait_option
@asks
def expire(session: Session, *, dry_run: bool, wait: bool) -> int:
    """Let backups go whose time is over."""
    if dry_run:
        return session.show(m.ExpiryPlan, *session.client.store.plan_expire())
    return session.finish(session.client.store.expire(), wait=wait)
