"""What the command line shows: tables, JSON, and the progress of what is waited for."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from wherry import models as m

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

Column = tuple[str, "Callable[[Any], object]"]

_LINE_EVERY_S = 1.0

_IMAGE: tuple[Column, ...] = (
    ("ID", lambda one: one.id),
    ("Name", lambda one: one.name),
    ("Type", lambda one: one.type),
    ("Distribution", lambda one: one.distribution),
    ("Slug", lambda one: one.slug or ""),
    ("Public", lambda one: str(one.public).lower()),
    ("Min Disk", lambda one: one.min_disk_size or 0),
    ("Size", lambda one: one.size_gigabytes or 0),
    ("Status", lambda one: one.status),
    ("Regions", lambda one: ",".join(one.regions)),
    ("Created At", lambda one: moment(one.created_at)),
    ("Error", lambda one: one.error_message or ""),
)


def health(image: m.Image) -> str:
    """How an image's stored bytes are, and where it is damaged."""
    if not image.health:
        return ""
    damaged = [f"{one.region}: {f'{one.count} lost' if one.count else 'to be healed'}" for one in image.health.damaged]
    return f"{image.health.state} ({', '.join(damaged)})" if damaged else image.health.state


COLUMNS: dict[type, tuple[Column, ...]] = {
    m.Image: _IMAGE,
    m.ImageReply: (  # an image that was read by itself
        *_IMAGE,
        ("Health", health),
        ("Checked At", lambda one: moment(one.health.checked_at) if one.health else ""),
    ),
    m.Action: (
        ("ID", lambda one: one.id),
        ("Status", lambda one: one.status),
        ("Type", lambda one: one.type),
        ("Started At", lambda one: moment(one.started_at)),
        ("Completed At", lambda one: moment(one.completed_at)),
        ("Resource ID", lambda one: one.resource_id or ""),
        ("Resource Type", lambda one: one.resource_type or ""),
        ("Region", lambda one: one.region_slug or ""),
        ("Error", lambda one: one.error.code if one.error else ""),
        ("Waiting For", lambda one: (one.progress and one.progress.waiting_for) or ""),
    ),
    m.Region: (
        ("Slug", lambda one: one.slug),
        ("Name", lambda one: one.name),
        ("Available", lambda one: str(one.available).lower()),
    ),
    m.Size: (
        ("Slug", lambda one: one.slug),
        ("Description", lambda one: one.description),
        ("Memory", lambda one: one.memory),
        ("VCPUs", lambda one: one.vcpus),
        ("Disk", lambda one: one.disk),
        ("Price Monthly", lambda one: f"{one.price_monthly:.2f}"),
        ("Price Hourly", lambda one: f"{one.price_hourly:.5f}"),
    ),
    m.Snapshot: (
        ("ID", lambda one: one.id),
        ("Name", lambda one: one.name),
        ("Created At", lambda one: moment(one.created_at)),
        ("Regions", lambda one: ",".join(one.regions)),
        ("Resource ID", lambda one: one.resource_id),
        ("Resource Type", lambda one: one.resource_type),
        ("Min Disk Size", lambda one: one.min_disk_size),
        ("Size", lambda one: one.size_gigabytes),
        ("Tags", lambda one: ",".join(one.tags or ())),
    ),
    m.Account: (
        ("User Email", lambda one: one.email),
        ("Team", lambda one: one.team.name if one.team else ""),
        ("Droplet Limit", lambda one: one.droplet_limit),
        ("Email Verified", lambda one: str(one.email_verified).lower()),
        ("User UUID", lambda one: one.uuid),
        ("Status", lambda one: one.status),
    ),
    m.Droplet: (
        ("ID", lambda one: one.id),
        ("Name", lambda one: one.name),
        ("Public IPv4", lambda one: address(one.networks.v4, "public")),
        ("Private IPv4", lambda one: address(one.networks.v4, "private")),
        ("Public IPv6", lambda one: address(one.networks.v6, "public")),
        ("Memory", lambda one: one.memory),
        ("VCPUs", lambda one: one.vcpus),
        ("Disk", lambda one: one.disk),
        ("Region", lambda one: one.region.slug),
        ("Image", lambda one: f"{one.image.distribution} {one.image.name}"),
        ("VPC UUID", lambda one: one.vpc_uuid or ""),
        ("Status", lambda one: one.status),
        ("Tags", lambda one: ",".join(one.tags)),
        ("Features", lambda one: ",".join(one.features)),
        ("Volumes", lambda one: ",".join(one.volume_ids)),
        ("Size Slug", lambda one: one.size_slug),
    ),
    m.BackupPolicyRecord: (
        ("Droplet ID", lambda one: one.droplet_id),
        ("Backup Enabled", lambda one: str(one.backup_enabled).lower()),
        ("Backup Policy Plan", lambda one: one.backup_policy.plan if one.backup_policy else ""),
        ("Backup Policy Weekday", lambda one: (one.backup_policy.weekday or "") if one.backup_policy else ""),
        ("Backup Policy Hour", lambda one: one.backup_policy.hour if one.backup_policy else ""),
        (
            "Backup Policy Window Length Hours",
            lambda one: one.backup_policy.window_length_hours if one.backup_policy else "",
        ),
        (
            "Backup Policy Retention Period Days",
            lambda one: one.backup_policy.retention_period_days if one.backup_policy else "",
        ),
        ("Next Backup Window Start", lambda one: moment(one.next_backup_window and one.next_backup_window.start)),
        ("Next Backup Window End", lambda one: moment(one.next_backup_window and one.next_backup_window.end)),
    ),
    m.SupportedBackupPolicy: (
        ("Name", lambda one: one.name),
        ("Possible Window Starts", lambda one: ",".join(map(str, one.possible_window_starts))),
        ("Window Length Hours", lambda one: one.window_length_hours),
        ("Retention Period Days", lambda one: one.retention_period_days),
        ("Possible Days", lambda one: ",".join(one.possible_days)),
    ),
    m.SshKey: (
        ("ID", lambda one: one.id),
        ("Name", lambda one: one.name),
        ("FingerPrint", lambda one: one.fingerprint),
    ),
    m.Tag: (
        ("Name", lambda one: one.name),
        ("Droplet Count", lambda one: one.resources.droplets.count),
        ("Image Count", lambda one: one.resources.images.count),
    ),
    m.AccountTransferReply: (("Transfer ID", lambda one: one.transfer_id),),
    m.ExpiryPlan: (
        ("Image ID", lambda one: one.image_id),
        ("Name", lambda one: one.name),
        ("Droplet ID", lambda one: one.droplet_id),
        ("Created At", lambda one: moment(one.created_at)),
        ("Expires At", lambda one: moment(one.expires_at)),
    ),
    m.TransferPlan: (
        ("Region", lambda one: one.region),
        ("Blocks", lambda one: one.blocks_total),
        ("Reused", lambda one: one.blocks_reused),
        ("To Send", lambda one: one.blocks_to_send),
        ("Bytes To Send", lambda one: one.bytes_to_send),
    ),
    m.CollectPlan: (
        ("Region", lambda one: one.region),
        ("Objects", lambda one: one.objects),
        ("Bytes", lambda one: one.bytes),
    ),
    m.CompactPlan: (
        ("Region", lambda one: one.region),
        ("Packs", lambda one: one.packs),
        ("Bytes To Rewrite", lambda one: one.bytes_to_rewrite),
        ("Bytes Freed", lambda one: one.bytes_freed),
    ),
    m.ImageUsage: (
        ("Region", lambda one: one.region),
        ("Bytes", lambda one: one.bytes),
        ("Exclusive Bytes", lambda one: one.exclusive_bytes),
        ("Shared Bytes", lambda one: one.shared_bytes),
    ),
    m.RegionUsage: (
        ("Region", lambda one: one.region),
        ("Objects", lambda one: one.objects),
        ("Bytes", lambda one: one.bytes),
        ("Reclaimable Bytes", lambda one: one.reclaimable_bytes),
        ("Compact Candidates", lambda one: one.thinned_bytes),
    ),
}


def moment(when: Any) -> str:
    """A time as the API writes it."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ") if when else ""


def address(networks: Sequence[m.NetworkV4 | m.NetworkV6], kind: str) -> str:
    """The first address of a kind; none while a Droplet is new."""
    return next((one.ip_address for one in networks if one.type == kind), "")


@dataclass(frozen=True)
class Printer:
    """Prints what was asked for: as JSON, or as a table with some columns and perhaps their names above."""

    as_json: bool = False
    columns: tuple[str, ...] = ()
    header: bool = True

    def show(self, items: Sequence[Any], kind: type) -> None:
        """Print items of one kind. Raises UsageError for a column that there is not."""
        if self.as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(items), indent=2).decode())
            return
        chosen = self._chosen(kind)
        rows = [[str(get(one)) for _, get in chosen] for one in items]
        if self.header:
            rows.insert(0, [title for title, _ in chosen])
        widths = [max(len(row[place]) for row in rows) for place in range(len(chosen))] if rows else []
        for row in rows:
            click.echo("    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def _chosen(self, kind: type) -> tuple[Column, ...]:
        known = {_plain(title): (title, get) for title, get in COLUMNS[kind]}
        if unknown := [name for name in self.columns if _plain(name) not in known]:
            words = ", ".join(title.replace(" ", "") for title, _ in COLUMNS[kind])
            raise click.UsageError(f"there is no column {', '.join(unknown)}; there are {words}")
        return tuple(known[_plain(name)] for name in self.columns) or COLUMNS[kind]


def _plain(title: str) -> str:
    return title.replace(" ", "").lower()


def amount(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:  # noqa: PLR2004  bytes in the next unit
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def describe(progress: m.Progress | None, kind: str = "") -> str:
    """How far an action of a type is, in one line."""
    if progress is None:
        return "not begun yet"
    if progress.stage == "wait":  # nothing was moved yet that could be told of
        return f"waiting for {progress.waiting_for}"
    parts = _moved(progress, kind)
    if progress.rate_bytes_per_s:
        parts.append(f"{amount(progress.rate_bytes_per_s)}/s")
    if progress.eta_s:
        parts.append(f"{progress.eta_s:.0f} s left")
    if progress.waiting_for:
        parts.append(f"waiting for {progress.waiting_for}")
    return ", ".join(parts)


def _moved(progress: m.Progress, kind: str) -> list[str]:
    """What an action has done, in the words of its type."""
    sent, freed = amount(progress.bytes_sent), f"{amount(progress.bytes_freed)} freed"
    if kind == "collect":
        return [freed]
    if kind == "compact":
        left = [] if progress.bytes_left is None else [f"{amount(progress.bytes_left)} left to look at"]
        return [f"{sent} rewritten", freed, *left]
    if kind in {"scrub", "verify"}:
        return [f"{sent} checked"]
    if kind == "heal":
        return [f"{sent} moved"]
    return [f"{sent} sent", f"{amount(progress.bytes_reused)} reused"]


class ActionView:
    """Shows an action while it is waited for: a live bar on a terminal, plain lines elsewhere. Writes to stderr.

    A line comes when the stage changes, and at most once a second when something else does.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._stage = ""
        self._said = ""
        self._said_at = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.fields[kind]}"), TextColumn("{task.fields[stage]}"), BarColumn(30),
                TextColumn("{task.percentage:>5.1f} %"), TextColumn("{task.fields[detail]}"), console=self._console,
            )  # fmt: skip
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def see(self, action: m.Action) -> None:
        """Show a state of the action."""
        stage = action.progress.stage if action.progress else "accepted"
        if self._bar is not None:
            self._draw(self._bar, action, stage)
        elif stage != self._stage or time.monotonic() - self._said_at >= _LINE_EVERY_S:
            self._tell(action, stage)
        self._stage = stage

    def _tell(self, action: m.Action, stage: str) -> None:
        percent = action.progress.percent if action.progress else None
        done = "" if percent is None else f" {percent:.1f} %"
        line = f"{action.type} {action.id}: {stage}{done}, {describe(action.progress, action.type)}"
        if line != self._said:
            self._said, self._said_at = line, time.monotonic()
            click.echo(line, err=True)

    def _draw(self, bar: Progress, action: m.Action, stage: str) -> None:
        percent = action.progress.percent if action.progress else None
        total = None if percent is None else 100.0
        if not bar.task_ids:
            bar.add_task("", total=total, kind=action.type, stage=stage, detail="")
        detail = describe(action.progress, action.type)
        bar.update(bar.task_ids[0], total=total, completed=percent or 0.0, stage=stage, detail=detail)


class BytesView:
    """Shows bytes that come or go. Writes to stderr."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._terminal = sys.stderr.isatty()
        self._began = self._said_at = time.monotonic()
        self._reused = 0

    def reuse(self, reused: int) -> None:
        """Take in how many of the bytes were there and need not come."""
        self._reused = reused

    def see(self, done: int, total: int | None) -> None:
        """Show how many bytes are done."""
        now = time.monotonic()
        if now - self._said_at < (0.1 if self._terminal else _LINE_EVERY_S) and done != total:
            return
        self._said_at = now
        rate = done / (now - self._began) if now > self._began else 0.0
        whole = f" of {amount(total)}" if total else ""
        reused = f", {amount(self._reused)} reused" if self._reused else ""
        line = f"{self._what}: {amount(done)}{whole}, {amount(rate)}/s{reused}"
        if self._terminal:
            click.echo(f"\r{line:<70}", err=True, nl=done == total)
        else:
            click.echo(line, err=True)
