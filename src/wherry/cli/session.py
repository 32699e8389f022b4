"""What all commands share: the options each of them has, and a session made of them."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wherry import models as m
from wherry.cli.exits import EXIT_CANCELLED, EXIT_ERRORED, EXIT_OK, EXIT_WATCH_STOPPED
from wherry.cli.output import ActionView, Printer
from wherry.client import Client
from wherry.errors import ActionErrored, ActionTimeout, ConnectionFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

_file = click.Path(path_type=Path, dir_okay=False)

_SHARED = (
    click.option("--token", "-t", help="The token (default: WHERRY_TOKEN)."),
    click.option("--url", "-u", "--api-url", "url", help="The service's address (default: WHERRY_URL)."),
    click.option("--ca-file", type=_file, help="A file of the CAs to trust (default: WHERRY_CA_FILE)."),
    click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", help="The output format."),
    click.option("--format", "columns", default="", help="The columns to print, separated by commas."),
    click.option("--no-header", is_flag=True, help="Print no column names."),
    click.option("--http-retry-max", "retries", type=int, default=3, help="How often a failed request is retried."),
)

_POLICY = (
    click.option("--backup-policy-plan", "plan", type=click.Choice(["daily", "weekly"]), help="The backup plan."),
    click.option("--backup-policy-weekday", "weekday", help="The day of weekly backups: SUN to SAT."),
    click.option(
        "--backup-policy-hour",
        "hour",
        type=int,
        help="The hour (UTC) at which the window opens: 0, 4, 8, 12, 16 or 20.",
    ),
)


class Session:
    """One command's client and printer."""

    def __init__(self, connect: Callable[[], Client], output: str, columns: str, *, no_header: bool) -> None:
        self._connect = connect
        names = tuple(name.strip() for name in columns.split(",") if name.strip())
        self._printer = Printer(output == "json", names, not no_header)

    @functools.cached_property
    def client(self) -> Client:
        """The client; its token is looked for only now, so that --help needs none."""
        return self._connect()

    def show(self, kind: type, *items: Any) -> int:
        """Print items, and return the exit status."""
        self._printer.show(items, kind)
        return EXIT_OK

    def finish(self, action: m.Action, *, wait: bool) -> int:
        """Print an action, after waiting for its end if ``wait``, and return the exit status."""
        return self.wait(action) if wait else self.show(m.Action, action)

    def wait(self, action: m.Action, stall_timeout_s: float | None = None) -> int:
        """Show an action until it ends, print it, and return the exit status."""
        return self.watch(action, stall_timeout_s) or self.show(m.Action, self.client.actions.retrieve(action.id))

    def watch(self, action: m.Action, stall_timeout_s: float | None = None) -> int:
        """Show an action until it ends, and return the exit status. If it errored, stderr says why."""
        try:
            with ActionView() as view:
                self.client.actions.wait(action, on_progress=view.see, stall_timeout_s=stall_timeout_s)
        except KeyboardInterrupt:
            return _unwatched(f"Stopped watching; action {action.id} goes on.", action)
        except ActionTimeout as error:
            return _unwatched(error.message, action)
        except (ConnectionFailed, Unavailable) as error:
            return _unwatched(f"{error.message.rstrip('.')}. Action {action.id} goes on without being watched.", action)
        except ActionErrored as error:
            return self._errored(error.action)
        return EXIT_OK

    def _errored(self, action: m.Action) -> int:
        reason = action.error
        if reason is None:
            click.echo(f"Error: action {action.id} errored; the service gives no reason.", err=True)
            return EXIT_ERRORED
        click.echo(f"Error: {reason.message} ({reason.code})", err=True)
        if reason.hint:
            click.echo(f"Hint: {reason.hint}", err=True)
        return EXIT_CANCELLED if reason.code == "cancelled" else EXIT_ERRORED


def _unwatched(message: str, action: m.Action) -> int:
    click.echo(f"{message} Watch it again with:\n  wherry compute action wait {action.id}", err=True)
    return EXIT_WATCH_STOPPED


def asks(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that all have, and a session made of them."""

    @functools.wraps(command)
    def run(
        *, token: str | None, url: str | None, ca_file: Path | None, output: str, columns: str, no_header: bool,
        retries: int, **rest: Any,
    ) -> int:  # fmt: skip
        if columns == "raw" and "image_format" in rest:  # no column is called so
            columns, rest["image_format"] = "", "raw"
        connect = functools.partial(Client, token, url, ca_file=ca_file, retries=retries)
        return command(Session(connect, output, columns, no_header=no_header), **rest)

    for option in reversed(_SHARED):
        run = option(run)
    return run


class ByteSize(click.ParamType[int]):
    """A number of bytes: ``1048576``, ``512MiB``, ``2GiB``."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read one."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,15})(|KiB|MiB|GiB|TiB)", str(value))
        if found is None:
            self.fail(f"{value!r} is no size; it may be a number of bytes, or one of KiB, MiB, GiB or TiB", param, ctx)
        return int(found[1]) << 10 * ("", "KiB", "MiB", "GiB", "TiB").index(found[2])


image_format_option = click.option(
    "--image-format", "image_format", type=click.Choice(["raw"]),
    help="Treat the file as a raw disk, whatever it looks like; the same as --format raw.",
)  # fmt: skip
wait_option = click.option("--wait", is_flag=True, help="Show progress until it ends.")
force_option = click.option("--force", "-f", is_flag=True, help="Do not ask.")


def confirm(question: str, *, force: bool) -> None:
    """Ask before something is deleted for good. Raises Abort for a no, and at the end of the input."""
    if not force:
        click.confirm(question, abort=True)


def words(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> list[str]:
    """An option's words: it may be given more than once, and each time with several, separated by commas."""
    return [word.strip() for text in value for word in text.split(",") if word.strip()]


def id_or_word(text: str) -> int | str:
    """What may be given by an id or by a word (slug, fingerprint)."""
    return int(text) if text.isascii() and text.isdigit() else text


def policy_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of a backup policy, which it gets as ``policy``; None where there are none."""

    @functools.wraps(command)
    def run(*arguments: Any, plan: str | None, weekday: str | None, hour: int | None, **rest: Any) -> int:
        if plan is None and (weekday is not None or hour is not None):
            raise click.UsageError("--backup-policy-weekday and --backup-policy-hour need --backup-policy-plan")
        policy = None if plan is None else m.BackupPolicyRequest(plan=plan, weekday=weekday, hour=hour)
        return command(*arguments, policy=policy, **rest)

    for option in reversed(_POLICY):
        run = option(run)
    return run
