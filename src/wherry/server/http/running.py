"""How many requests of one kind run at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from wherry.errors import RateLimited


@dataclass
class Running:
    """The requests of one kind that are running: at most so many for each token, and in all (0: any number).

    It belongs to the event loop.
    """

    what: str
    most: int = 32
    most_in_all: int = 0
    by_token: Counter[int] = field(default_factory=Counter)

    def enter(self, token_id: int) -> None:
        """Begin a request of a token. Raises RateLimited if too many are running."""
        if self.most and self.by_token[token_id] >= self.most:
            raise RateLimited(f"{self.most} {self.what} of this token are running; no more may.", retry_after_s=1)
        if self.most_in_all and self.by_token.total() >= self.most_in_all:
            raise RateLimited(
                f"{self.most_in_all} {self.what} of all tokens are running, as many as the open files of the service "
                "allow; no more may.",
                retry_after_s=1,
            )
        self.by_token[token_id] += 1

    def leave(self, token_id: int) -> None:
        """End a request of a token."""
        self.by_token[token_id] -= 1
        if not self.by_token[token_id]:
            del self.by_token[token_id]
