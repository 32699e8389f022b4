"""The command line, in doctl's words. The entry point is ``main``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from wherry.cli.account import account
from wherry.cli.compute import compute
from wherry.cli.exits import EXIT_ERROR, EXIT_OK
from wherry.cli.images import public_image
from wherry.cli.store import collect, compact, expire, scrub, usage
from wherry.errors import WherryError

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Commands(click.Group):
    """The client's commands, and the service's where ``wherry[server]`` is installed.

    ``served`` has the names of the latter, and what each is called in ``cli/serve.py`` or ``cli/operate.py``.
    """

    def __init__(self, *arguments: Any, served: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._served = served

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._served])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._served:
            return _server_command(cmd_name, self._served[cmd_name])
        return super().get_command(ctx, cmd_name)


def _server_command(name: str, called: str) -> click.Command:
    try:
        from wherry.cli import operate, serve  # noqa: PLC0415  the client must work where the service is not installed
    except ImportError as error:
        return _missing(f"'{name}' needs the service: pip install 'wherry[server]' ({error})")
    command: click.Command = getattr(serve if hasattr(serve, called) else operate, called)
    return command


def _missing(reason: str) -> click.Command:
    """A command that is not installed: help lists it, and running it says what is missing."""

    def refuse() -> None:
        raise click.ClickException(reason)

    lenient = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(None, callback=refuse, help="Needs the service.", context_settings=lenient)


@click.group(
    cls=_Commands, served={name: name for name in ("check", "db", "regions", "serve", "token", "worker")},
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
@click.version_option(package_name="wherry")
def wherry() -> None:
    """Keep disk images in regions, convert them and transfer them."""


_SERVED_ACCOUNTS = {"create": "create_account", "limit": "limit_account", "list": "list_accounts"}

for _command in (collect, compact, compute, expire, public_image, scrub, usage):
    wherry.add_command(_command)
# Beside what an account's own token may ask stands what an operator does with all of them.
wherry.add_command(_Commands("account", commands=account.commands, help=account.help, served=_SERVED_ACCOUNTS))


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
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)
    sys.exit(status if isinstance(status, int) else EXIT_OK)
