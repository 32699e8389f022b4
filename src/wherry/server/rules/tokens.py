"""The secrets of tokens: which text can be one, and what the catalog keeps of it."""

from __future__ import annotations

import hashlib
import re

_SECRET = re.compile(r"[!-~]+")


def is_secret(text: str) -> bool:
    """Return whether a token can have this secret: one visible ASCII character or more, without white space."""
    return _SECRET.fullmatch(text) is not None


def token_digest(secret: str) -> str:
    """What is kept of a token. Its secret is random enough for a plain digest."""
    return hashlib.sha256(secret.encode()).hexdigest()
