"""The command line, in doctl's words. The entry point is ``main``."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from wherry.cli.account import account
from wherry.cli.compute import compute
from wherry.cli.exits import EXIT_ERROR, EXIT_OK
from wherry.cli.images import public_image
from wherry.cli.store import collect, expire
from wherry.errors import WherryError

_SERVER_COMMANDS = ("check", "serve", "token")


class _Commands(click.Group):
    """The client's commands, and the service's where ``wherry[server]`` is installed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_SERVER_COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _SERVER_COMMANDS:
            return _server_command(cmd_name)
        return super().get_command(ctx, cmd_name)


def _server_command(name: str) -> click.Command:
    try:
        from wherry.cli import serve  # noqa: PLC0415  the client must work where the service is not installed
    except ImportError as error:
        raise click.ClickException(f"'{name}' needs the service: pip install 'wherry[server]' ({error})") from error
    command: click.Command = getattr(serve, name)
    return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wherry")
def wherry() -> None:
    """Keep disk images in regions, convert them and transfer them."""


for _command in (account, collect, compute, expire, public_image):
    wherry.add_command(_command)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit: 0 done, 1 usage or API error, 2 action errored, 3 watch stopped, 4 cancelled."""
    try:
        status = wherry.main(arguments, prog_name="wherry", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_ERROR)
    except click.Abort:
        click.echo("Aborted.", err=True)
        sys.exit(EXIT_ERROR)
    except WherryError as error:
        click.echo(f"Error: {error.message}", err=True)
        if error.hint:
            click.echo(f"Hint: {error.hint}", err=True)
        sys.exit(EXIT_ERROR)
    except BrokenPipeError:  # whoever read the output has heard enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)
    sys.exit(status if isinstance(status, int) else EXIT_OK)
