from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import pytest

from wherry.server.rules.addresses import is_readable

PUBLIC = ("1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::")
REFUSED = (
    "127.0.0.1", "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "168.63.129.16", "169.254.169.254",
    "172.31.255.255", "192.0.0.8", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1",
    "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:169.254.169.254", "::127.0.0.1", "::a9fe:a9fe",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "64:ff9b:1::101:101", "2002:7f00:1::",
    "2002:a9fe:a9fe::", "2001::1", "2001:2::1", "2001:db8::1", "3fff::1", "5f00::1", "100::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "ff0e::1",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_read(address: str) -> None:
    """What the internet can reach may be read, also by way of a translator."""
    assert is_readable(ip_address(address))


@pytest.mark.parametrize("address", REFUSED)
def test_all_others_are_refused(address: str) -> None:
    """Inner networks, metadata services, and whatever no server of the internet has."""
    assert not is_readable(ip_address(address))


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "localhost"])
def test_other_spellings_are_refused(host: str) -> None:
    """The rule sees what the resolver makes of a host: decimal, octal and hexadecimal ones, too."""
    assert not any(is_readable(ip_address(place[0])) for *_, place in socket.getaddrinfo(host, 80))


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::"])
def test_a_network_that_is_named_is_open(address: str) -> None:
    """The operator's word opens a network, in all forms of its addresses; others stay closed."""
    assert is_readable(ip_address(address), [ip_network("10.0.0.0/8")])
    assert not is_readable(ip_address(address), [ip_network("10.2.0.0/16"), ip_network("fd00::/8")])
