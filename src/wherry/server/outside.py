"""Text that comes from outside and is shown again: the one place where it is made fit for that.

A far server's reason phrase, a host's name, or what a driver says of its database may have anything in it: a NUL, which
PostgreSQL can't store, control characters that rewrite a terminal, megabytes, a password, or a signature. ``shown`` is
for one such text, ``without_secrets`` for a whole line of the log. A test of the tree forbids to quote an error in any
other way.
"""

from __future__ import annotations

import re

LONGEST = 200

_USER = re.compile(r"(?<=://)[^/?#@\s]*(?:@[^/?#@\s]*)*@")
_QUERY = re.compile(r"(?<=://)([^\s?#'\"]*)[?#][^\s'\"]*")
_ANY_QUERY = re.compile(r"(?<=[^\s?])\?[^\s'\"]+")  # "is it so? yes" has none
_READ_AT_MOST = 10 * LONGEST


def shown(text: object) -> str:
    """A text from outside, fit to be shown: printable, one line, at most 200 characters, no password and no query.

    Bytes are read as UTF-8. An error stands for what it says.
    """
    raw = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    clean = _ANY_QUERY.sub("", without_secrets(raw[:_READ_AT_MOST]))
    line = " ".join("".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in clean).split())
    return line if len(line) <= LONGEST and len(raw) <= _READ_AT_MOST else line[: LONGEST - 1] + "…"


def without_secrets(text: str) -> str:
    """The text without what URLs in it have before an @ or after a question mark."""
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1", _USER.sub("", text))
