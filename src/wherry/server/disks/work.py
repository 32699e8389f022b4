"""What a file may cost: hostile structure is bounded by the work it makes, not only by the size of its disk."""

from __future__ import annotations

from wherry.errors import FormatError

_TIMES = 1000
_AT_ONCE = 1 << 30
_SMALLEST_PIECE = 64 << 10  # what the handling of a piece costs, in bytes that could be copied or decoded meanwhile


class WorkLimit:
    """Allows 1,000 times the bytes of the input plus 1 GiB to be decoded. A piece counts as 64 KiB at least.

    Pieces are the members of a compressed file and the runs that an image's tables point at: without a price of their
    own, empty members, or tables that point at one place again and again, would make much work of few bytes.
    """

    def __init__(self, what: str, input_bytes: int = 0) -> None:
        self._what = what
        self._input = input_bytes
        self._left = _AT_ONCE + _TIMES * input_bytes

    def allow_for(self, input_bytes: int) -> None:
        """Count bytes of the input that were read."""
        self._input += input_bytes
        self._left += _TIMES * input_bytes

    def spend(self, decoded_bytes: int) -> None:
        """Count decoded bytes. Raises FormatError past the limit."""
        self._left -= decoded_bytes
        if self._left < 0:
            raise FormatError(
                f"{self._what} makes too much work: more than {_TIMES} times its {self._input} bytes and 1 GiB would "
                "be decoded. Write the image again with its own tool, or give it less compressed."
            )

    def spend_piece(self, decoded_bytes: int) -> None:
        """Count a piece that was decoded at once."""
        self.spend(max(decoded_bytes, _SMALLEST_PIECE))

    def spend_rest(self, decoded_bytes: int) -> None:
        """Count the end of a piece whose bytes were counted as they came."""
        self.spend(max(0, _SMALLEST_PIECE - decoded_bytes))
