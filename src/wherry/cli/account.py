"""``wherry account`` and ``wherry compute ssh-key``: the account that a token belongs to, and its keys."""

from __future__ import annotations

from pathlib import Path

import click

from wherry import models as m
from wherry.cli.exits import EXIT_OK
from wherry.cli.session import Session, asks, confirm, force_option


@click.group()
def account() -> None:
    """Show the account that the token belongs to."""


@account.command("get")
@asks
def get_account(session: Session) -> int:
    """Show the account."""
    return session.show(m.Account, session.client.account.retrieve())


@click.group("ssh-key")
def ssh_key() -> None:
    """Public SSH keys of the account. KEY is an id or a fingerprint."""


@ssh_key.command("create")
@click.argument("name")
@click.option("--public-key", required=True, help="The key, as in authorized_keys.")
@asks
def create_key(session: Session, name: str, public_key: str) -> int:
    """Add a public key."""
    return session.show(m.SshKey, session.client.gpu_droplets.account.keys.create(name=name, public_key=public_key))


@ssh_key.command("import")
@click.argument("name")
@click.option("--public-key-file", "file", required=True, help="A file with the key, such as ~/.ssh/id_ed25519.pub.",
              type=click.Path(path_type=Path, dir_okay=False, exists=True))  # fmt: skip
@asks
def import_key(session: Session, name: str, file: Path) -> int:
    """Add a public key from a file."""
    kept = session.client.gpu_droplets.account.keys.create(name=name, public_key=file.read_text().strip())
    return session.show(m.SshKey, kept)


@ssh_key.command("list")
@asks
def list_keys(session: Session) -> int:
    """List the keys."""
    return session.show(m.SshKey, *session.client.gpu_droplets.account.keys.list())


@ssh_key.command("get")
@click.argument("key")
@asks
def get_key(session: Session, key: str) -> int:
    """Show a key."""
    return session.show(m.SshKey, session.client.gpu_droplets.account.keys.retrieve(key))


@ssh_key.command("update")
@click.argument("key")
@click.option("--key-name", "name", required=True, help="Its new name.")
@asks
def update_key(session: Session, key: str, name: str) -> int:
    """Rename a key."""
    return session.show(m.SshKey, session.client.gpu_droplets.account.keys.update(key, name=name))


@ssh_key.command("delete")
@click.argument("key")
@force_option
@asks
def delete_key(session: Session, key: str, *, force: bool) -> int:
    """Delete a key."""
    confirm(f"Delete the key {key}?", force=force)
    session.client.gpu_droplets.account.keys.delete(key)
    return EXIT_OK
