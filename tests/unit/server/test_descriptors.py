"""Descriptors are shared out, and it shows when they run short."""

from __future__ import annotations

import os

import pytest

from wherry.errors import Unavailable
from wherry.server.machine.descriptors import DescriptorCheck, Share, share_descriptors


def test_the_parts_fit_into_the_whole() -> None:
    """A connection and two files for each upload can't exceed the limit, however many connections are wanted."""
    for wanted in (10, 1 << 30):
        share = share_descriptors(wanted)
        assert share.connections <= wanted
        assert share.uploads > 0
        assert share.connections + 2 * share.uploads <= share.limit
        assert share.least <= share.uploads


def test_a_shortage_shows_and_passes() -> None:
    """Too few that are left are told of; they are counted again after five seconds, and not before."""
    used, now = sum(1 for _ in os.scandir("/proc/self/fd")), [0.0]
    check = DescriptorCheck(Share(used + 50, 0, 0, 30), lambda: now[0])
    check.check()
    taken = [os.dup(0) for _ in range(40)]
    try:
        check.check()
        now[0] = 5.0
        with pytest.raises(Unavailable, match=rf"short: \d+ of {used + 50} descriptors are left; at least 30"):
            check.check()
    finally:
        for descriptor in taken:
            os.close(descriptor)
    now[0] = 10.0
    check.check()
