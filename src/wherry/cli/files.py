"""Files that are fetched from the service and sent to it, with what a person sees of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wherry.cli.exits import EXIT_ERROR, EXIT_OK
from wherry.cli.output import BytesView, amount
from wherry.errors import WherryError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wherry import models as m


def fetch(export: Callable[..., None], file: Path, *, force: bool) -> int:
    """Write an export to a file, and return the exit status. Raises UsageError where the file exists, unless forced."""
    if file.exists() and not force:
        raise click.UsageError(f"{file} exists; --force overwrites it")
    export(on_progress=BytesView("exported").see)
    click.echo(f"Wrote {file} ({amount(file.stat().st_size)}, checked).", err=True)
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
