"""Accounts, their tokens and their SSH keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, false, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from wherry.errors import NotFound, Unprocessable
from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import LARGEST_ID, Changer, batches, micros, moment_of, moment_or_none
from wherry.server.catalog.quotas import QUOTAS, QuotaReader
from wherry.server.rules.records import AccountRecord, SshKeyRecord, TokenRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Row


class AccountReader(QuotaReader):
    """Questions about accounts, tokens and keys."""

    def account(self, account_id: int) -> AccountRecord:
        """The account with this id. Raises NotFound."""
        return _account(self._one(select(t.accounts).where(t.accounts.c.id == account_id)))

    def accounts(self) -> list[AccountRecord]:
        """All accounts, the oldest first."""
        return [_account(row) for row in self.connection.execute(select(t.accounts).order_by(t.accounts.c.id))]

    def first_account(self) -> AccountRecord | None:
        """The account made at the first start, which is the operator's; None before it."""
        row = self.connection.execute(select(t.accounts).order_by(t.accounts.c.id).limit(1)).first()
        return None if row is None else _account(row)

    def find_account(self, *, email: str | None = None, uuid: str | None = None) -> AccountRecord | None:
        """The account with this e-mail, in any case, or of the team with this UUID; None if there is no such one."""
        wanted: list[ColumnElement[bool]] = []
        if email is not None:  # the database folds both, so that they are folded alike
            wanted.append(func.lower(t.accounts.c.email) == func.lower(email))
        if uuid is not None:
            wanted.append(t.accounts.c.uuid == uuid)
        row = self.connection.execute(select(t.accounts).where(or_(false(), *wanted))).first()
        return None if row is None else _account(row)

    def token(self, digest: str) -> TokenRecord | None:
        """The token whose secret has this digest, unless it was revoked."""
        query = select(t.tokens).where(t.tokens.c.digest == digest, t.tokens.c.revoked_at.is_(None))
        row = self.connection.execute(query).first()
        return None if row is None else _token(row)

    def tokens_with(self, digests: Collection[str]) -> list[TokenRecord]:
        """The tokens whose secrets have one of these digests, unless they were revoked."""
        query = select(t.tokens).where(t.tokens.c.digest.in_(digests), t.tokens.c.revoked_at.is_(None))
        return [_token(row) for row in self.connection.execute(query)]

    def tokens(self) -> list[TokenRecord]:
        """All tokens, revoked ones too, oldest first."""
        return [_token(row) for row in self.connection.execute(select(t.tokens).order_by(t.tokens.c.id))]

    def ssh_key(self, account_id: int, word: int | str) -> SshKeyRecord:
        """The account's key with this id or fingerprint. Raises NotFound."""
        return _ssh_key(self._one(select(t.ssh_keys).where(t.ssh_keys.c.account_id == account_id, _named(word))))

    def ssh_key_ids(self, account_id: int, words: Sequence[int | str]) -> dict[str, int]:
        """The account's keys by the words that name them, each an id or a fingerprint; what names none is left out."""
        k = t.ssh_keys.c
        rows = [
            row
            for batch in batches(list(words))
            for row in self.connection.execute(
                select(k.id, k.fingerprint).where(k.account_id == account_id, or_(*map(_named, batch)))
            )
        ]
        ids = {name: row.id for row in rows for name in (str(row.id), row.fingerprint)}
        named = {str(word): ids.get(_plain(str(word))) for word in words}
        return {word: key_id for word, key_id in named.items() if key_id is not None}

    def ssh_keys(self, account_id: int, *, limit: int, offset: int) -> tuple[list[SshKeyRecord], int]:
        """A page of the account's keys, newest first, and how many there are in all."""
        own = t.ssh_keys.c.account_id == account_id
        query = select(t.ssh_keys).where(own).order_by(t.ssh_keys.c.id.desc()).limit(limit).offset(offset)
        total = self.connection.scalar(select(func.count()).select_from(t.ssh_keys).where(own))
        return [_ssh_key(row) for row in self.connection.execute(query)], total or 0


class AccountWriter(Changer, AccountReader):
    """Changes of accounts, tokens and keys."""

    def add_account(self, uuid: str, email: str, name: str) -> AccountRecord:
        """Add an account. Raises Unprocessable if another one has the e-mail."""
        if self.find_account(email=email) is not None:
            raise Unprocessable(f"There is an account of {email} already")
        account_id = self._insert(t.accounts, uuid=uuid, email=email, name=name)
        return self.account(account_id)

    def set_limits(self, account_id: int, limits: Mapping[str, int | None]) -> None:
        """Change what an account may have at most, by the names of ``QUOTAS``; None is the default.

        What it has already stays, also if that is more.
        """
        values = {QUOTAS[name].column.name: limit for name, limit in limits.items()}
        self.connection.execute(update(t.accounts).where(t.accounts.c.id == account_id).values(**values))

    def add_token(self, account_id: int, name: str, digest: str, scopes: Iterable[str] | None) -> int:
        """Add a token by the digest of its secret; ``scopes`` None is full access."""
        kept = None if scopes is None else json.dumps(sorted(scopes))
        created = micros(self.moment)
        return self._insert(t.tokens, account_id=account_id, name=name, digest=digest, scopes=kept, created_at=created)

    def revoke_token(self, token_id: int) -> None:
        """End a token's validity. Raises NotFound."""
        live = (t.tokens.c.id == token_id, t.tokens.c.revoked_at.is_(None))
        done = self.connection.execute(update(t.tokens).where(*live).values(revoked_at=micros(self.moment)))
        if not done.rowcount:
            raise NotFound(f"There is no token {token_id} that could be revoked.")

    def add_ssh_key(self, account_id: int, name: str, public_key: str, fingerprint: str) -> SshKeyRecord:
        """Add a key. Raises Unprocessable if the account has it already, or may have no more."""
        self.check_quota(account_id, "keys")
        values: dict[str, Any] = {
            "account_id": account_id, "name": name, "public_key": public_key, "fingerprint": fingerprint,
        }  # fmt: skip
        try:
            with self.connection.begin_nested():
                key_id = self._insert(t.ssh_keys, **values)
        except IntegrityError as error:
            raise Unprocessable("SSH Key is already in use on your account") from error
        return SshKeyRecord(key_id, account_id, name, public_key, fingerprint)

    def rename_ssh_key(self, key_id: int, name: str) -> None:
        """Give a key another name."""
        self.connection.execute(update(t.ssh_keys).where(t.ssh_keys.c.id == key_id).values(name=name))

    def remove_ssh_key(self, key_id: int) -> None:
        """Forget a key."""
        self.connection.execute(delete(t.ssh_keys).where(t.ssh_keys.c.id == key_id))


def _named(word: int | str) -> ColumnElement[bool]:
    text = str(word)
    if text.isascii() and text.isdigit():
        return t.ssh_keys.c.id == min(int(text[:20]), LARGEST_ID)
    return t.ssh_keys.c.fingerprint == text.lower()


def _plain(word: str) -> str:
    return str(int(word)) if word.isascii() and word.isdigit() and len(word) <= 20 else word.lower()  # noqa: PLR2004  digits of 2^64


def _account(row: Row[Any]) -> AccountRecord:
    limit = QUOTAS["droplets"].default if row.droplet_limit is None else row.droplet_limit
    return AccountRecord(row.id, row.uuid, row.email, row.name, limit)


def _token(row: Row[Any]) -> TokenRecord:
    scopes = None if row.scopes is None else frozenset(json.loads(row.scopes))
    created, revoked = moment_of(row.created_at), moment_or_none(row.revoked_at)
    return TokenRecord(row.id, row.account_id, row.name, scopes, created, revoked)


def _ssh_key(row: Row[Any]) -> SshKeyRecord:
    return SshKeyRecord(row.id, row.account_id, row.name, row.public_key, row.fingerprint)
