"""Files that are fetched from the service and sent to it, with what a person sees of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wherry.cli.exits import EXIT_ERROR, EXIT_OK
from wherry.cli.output import BytesView, amount
from wherry.errors import NotFound, WherryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry import Exported
    from wherry import models as m


def fetch(export: Callable[..., Exported], file: Path, *, force: bool, by_blocks: bool = False) -> int:
    """Write an export to a file, and return the exit status. Raises UsageError where the file exists, unless forced.

    ``by_blocks`` says that an export which breaks off goes on when it is run again.
    """
    if file.exists() and not force:
        raise click.UsageError(f"{file} exists; --force overwrites it")
    view, begun = BytesView("exported"), list[Path]()
    more = {"on_begin": begun.append, "on_reuse": view.reuse} if by_blocks else {}
    try:
        exported = export(on_progress=view.see, **more)
    except (KeyboardInterrupt, WherryError, OSError) as error:
        if begun and begun[0].exists():
            again = "" if isinstance(error, NotFound) else "; the same command goes on with it"
            click.echo(f"\nThe export broke off. What came is in {begun[0]}{again}.", err=True)
        if isinstance(error, KeyboardInterrupt):
            raise click.exceptions.Exit(EXIT_ERROR) from error
        raise
    reused = f", {amount(exported.reused_bytes)} reused" if exported.reused_bytes else ""
    received = amount(exported.received_bytes)
    click.echo(f"Wrote {file} ({amount(file.stat().st_size)}, checked; {received} received{reused}).", err=True)
    return EXIT_OK


def send(upload: Callable[..., m.Action], resume: str | None, again: str) -> m.Action:
    """Send a file, and return the action that it began. If it breaks off, show the command that resumes it."""
    begun = [resume]
    try:
        return upload(on_begin=lambda upload_id: begun.__setitem__(0, upload_id), on_progress=BytesView("uploaded").see)
    except (KeyboardInterrupt, WherryError) as error:
        if begun[0] is not None:
            click.echo(f"\nThe upload broke off. Go on with it by:\n  {again} --resume {begun[0]}", err=True)
        if isinstance(error, KeyboardInterrupt):
            raise click.exceptions.Exit(EXIT_ERROR) from error
        raise
