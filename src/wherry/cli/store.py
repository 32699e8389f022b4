"""``wherry collect``, ``compact``, ``expire``, ``scrub`` and ``usage``."""

from __future__ import annotations

import click

from wherry import models as m
from wherry.cli.session import ByteSize, Session, asks, wait_option


@click.command()
@click.option("--region", help="Only in this region.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@wait_option
@asks
def collect(session: Session, region: str | None, *, dry_run: bool, wait: bool) -> int:
    """Remove unreferenced objects from the stores."""
    if dry_run:
        return session.show(m.CollectPlan, *session.client.store.plan_collect(region=region))
    return session.finish(session.client.store.collect(region=region), wait=wait)


@click.command()
@click.option("--region", help="Only in this region.")
@click.option("--budget", type=ByteSize(), metavar="SIZE", help="Rewrite about this much at most, such as 2GiB.")
@click.option("--dry-run", is_flag=True, help="Only show what would be rewritten.")
@wait_option
@asks
def compact(session: Session, region: str | None, budget: int | None, *, dry_run: bool, wait: bool) -> int:
    """Rewrite packs of which less than half is needed."""
    store = session.client.store
    if dry_run:
        plan = store.plan_compact(region=region, budget_bytes=budget)
        if not any(one.packs for one in plan):
            click.echo("nothing to do: no pack is more than half dead", err=True)
        return session.show(m.CompactPlan, *plan)
    return session.finish(store.compact(region=region, budget_bytes=budget), wait=wait)


@click.command()
@click.option("--region", required=True, help="The region's slug.")
@wait_option
@asks
def scrub(session: Session, region: str, *, wait: bool) -> int:
    """Check every stored byte of a region, and heal what is damaged."""
    return session.finish(session.client.store.scrub(region=region), wait=wait)


@click.command()
@asks
def usage(session: Session) -> int:
    """Show what is in the stores, by region."""
    return session.show(m.RegionUsage, *session.client.store.usage())


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show which would be deleted.")
@wait_option
@asks
def expire(session: Session, *, dry_run: bool, wait: bool) -> int:
    """Delete expired backups."""
    if dry_run:
        return session.show(m.ExpiryPlan, *session.client.store.plan_expire())
    return session.finish(session.client.store.expire(), wait=wait)
