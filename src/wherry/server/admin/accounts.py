"""What an operator does beside the API: accounts and tokens."""

from __future__ import annotations

import secrets
import uuid
from typing import TYPE_CHECKING

from wherry.calls import SCOPES
from wherry.errors import BadRequest
from wherry.server.rules.tokens import is_secret, token_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from wherry.server.catalog import Catalog, Reader, Writer
    from wherry.server.rules.records import AccountRecord, QuotaRecord, TokenRecord


SHORTEST_SECRET = 32
"""The fewest characters of a bootstrap token outside test mode. Those that wherry makes have 71."""

_SHORT = "bootstrap, short"
# Bootstrap tokens that earlier versions took although they protect nothing.
_BLANK = frozenset({"", *(blank * length for blank in " \t\r\n" for length in range(1, 65))})


class Accounts:
    """Makes and lists accounts."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def create(self, email: str, name: str | None = None) -> tuple[AccountRecord, str]:
        """Make an account, and return it with the secret of its first token. Raises BadRequest or Unprocessable."""
        local, at, domain = email.partition("@")
        if not (local and at and domain) or "@" in domain or not email.isprintable() or " " in email:
            raise BadRequest(f"{email!r} is no e-mail address.")
        secret = _new_secret()
        with self._catalog.begin() as tx:
            account = tx.add_account(str(uuid.uuid4()), email, name or local)
            tx.add_token(account.id, "first", token_digest(secret), None)
        return account, secret

    def list(self) -> list[AccountRecord]:
        """All accounts, the oldest first; that is the operator's."""
        with self._catalog.read() as reader:
            return reader.accounts()

    def limit(
        self, word: str, limits: Mapping[str, int | None] | None = None
    ) -> tuple[AccountRecord, dict[str, QuotaRecord]]:
        """Change limits of the account of this e-mail or UUID, by the quotas' names; None is the default.

        Returns the account, and what it may have and has. Raises BadRequest if there is no such account.
        """
        if limits:
            with self._catalog.begin() as tx:
                tx.set_limits(_account(tx, word).id, limits)
        with self._catalog.read() as reader:
            account = _account(reader, word)
            return account, reader.quotas(account.id)


class Tokens:
    """Makes, lists and revokes tokens."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def create(self, name: str, scopes: Iterable[str] = (), account: str | None = None) -> str:
        """Make a token and answer its secret, which is kept nowhere; no scopes is full access. Raises BadRequest.

        ``account`` is an e-mail or a UUID; default: the operator's account.
        """
        wanted = sorted(set(scopes))
        if unknown := [scope for scope in wanted if scope not in SCOPES]:
            raise BadRequest(f"There is no scope {', '.join(unknown)}; the known ones are {', '.join(SCOPES)}.")
        secret = _new_secret()
        with self._catalog.begin() as tx:
            tx.add_token(_account(tx, account).id, name, token_digest(secret), wanted or None)
        return secret

    def list(self) -> list[tuple[TokenRecord, AccountRecord]]:
        """All tokens, without their secrets, each with the account that it is of."""
        with self._catalog.read() as reader:
            accounts = {one.id: one for one in reader.accounts()}
            return [(one, accounts[one.account_id]) for one in reader.tokens()]

    def revoke(self, token_id: int) -> None:
        """End a token's validity; a running service hears of it within a second. Raises NotFound."""
        with self._catalog.begin() as tx:
            tx.revoke_token(token_id)


def check_bootstrap_token(token: str | None, *, test_mode: bool) -> None:
    """Raise BadRequest for a token that could not be used, or that can be guessed. The message never repeats it."""
    if token is None:
        return
    if not token:
        raise BadRequest("WHERRY_BOOTSTRAP_TOKEN is set, but empty: give a token, or unset it.")
    if not is_secret(token):
        raise BadRequest(
            "WHERRY_BOOTSTRAP_TOKEN has white space, control or non-ASCII characters; expected visible ASCII "
            "characters alone."
        )
    if not test_mode and len(token) < SHORTEST_SECRET:
        raise BadRequest(
            f"WHERRY_BOOTSTRAP_TOKEN has {len(token)} characters; at least {SHORTEST_SECRET} are needed outside test "
            "mode, for example: export WHERRY_BOOTSTRAP_TOKEN=dop_v1_$(openssl rand -hex 32)"
        )


def first_token(catalog: Catalog, bootstrap_token: str | None) -> str | None:
    """Make the first account and its token at the first start; see that the bootstrap token is valid at any.

    Returns the secret of the token that was made, None if there was an account or a bootstrap token.
    """
    with catalog.begin() as tx:
        if bootstrap_token is None:
            return first_account(tx)[1]
        account = tx.first_account() or _add_owner(tx)
        digest = token_digest(bootstrap_token)
        if tx.token(digest) is None:
            name = "bootstrap" if len(bootstrap_token) >= SHORTEST_SECRET else _SHORT
            tx.add_token(account.id, name, digest, None)
        return None


def revoke_weak_tokens(catalog: Catalog, *, test_mode: bool) -> list[TokenRecord]:
    """Revoke the tokens that protect nothing: blank ones and, outside test mode, short ones that were made in it.

    Returns those that were revoked.
    """
    with catalog.read() as reader:
        weak = reader.tokens_with([token_digest(secret) for secret in _BLANK])
        if not test_mode:
            weak += [token for token in reader.tokens() if token.name == _SHORT and token.revoked_at is None]
    if weak:
        with catalog.begin() as tx:
            for token in weak:
                tx.revoke_token(token.id)
    return weak


def first_account(tx: Writer) -> tuple[AccountRecord, str | None]:
    """The operator's account; where there is none it is made, and the secret of its first token is answered as well."""
    if (found := tx.first_account()) is not None:
        return found, None
    account, secret = _add_owner(tx), _new_secret()
    tx.add_token(account.id, "first", token_digest(secret), None)
    return account, secret


def _add_owner(tx: Writer) -> AccountRecord:
    return tx.add_account(str(uuid.uuid4()), "owner@wherry.invalid", "Owner")


def _new_secret() -> str:
    return "dop_v1_" + secrets.token_hex(32)


def _account(reader: Reader, word: str | None) -> AccountRecord:
    """The account of this e-mail or UUID, or the operator's."""
    if word is None:
        if (first := reader.first_account()) is None:
            raise BadRequest("There is no account yet: start the service once (wherry serve).")
        return first
    if (found := reader.find_account(email=word, uuid=word)) is None:
        raise BadRequest(f"There is no account {word}; 'wherry account list' lists them.")
    return found
