"""A digest is found where it first stands, and nowhere else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wherry.server.storage.places import DIGEST, Places

# few distinct digests, many of which begin alike, so that they want the same slot
digests = st.builds(
    lambda head, tail: bytes([head]) + bytes(7) + bytes([tail]) * (DIGEST - 8), *[st.integers(0, 9)] * 2
)


@given(st.lists(digests, max_size=200))
def test_finds_as_a_dictionary_does(column: list[bytes]) -> None:
    """The table answers what a dictionary of first places would."""
    places = Places(b"".join(column))
    expected: dict[bytes, int] = {}
    for place, digest in enumerate(column):
        assert places.add(place) is (digest not in expected)
        expected.setdefault(digest, place)
    assert {digest: places.find(digest) for digest in column} == expected


def test_grows() -> None:
    """More digests than the table first has slots for are all found."""
    column = bytearray()
    places = Places(column)
    for number in range(5000):
        column += number.to_bytes(DIGEST, "little")
        places.add(number)
    assert all(places.find(number.to_bytes(DIGEST, "little")) == number for number in range(5000))
    assert places.find(bytes([7]) * DIGEST) is None
