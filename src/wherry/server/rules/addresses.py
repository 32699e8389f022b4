"""Which addresses an import may read. Pure: a list of our own, since what a library calls global is not what is safe.

An IPv6 address that stands for an IPv4 one (by a translator or a tunnel) is judged as that one.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_REFUSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers; 100.100.100.200 has a cloud's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # a public address by its number, and a cloud's metadata
        "169.254.0.0/16",  # link-local; 169.254.169.254 has the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocols; 192.0.0.192 has a cloud's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_UNICAST_V6 = IPv6Network("2000::/3")  # all that was ever given out; private, link-local, multicast lie outside of it
_REFUSED_V6 = (
    IPv6Network("2001::/23"),  # protocols, Teredo and benchmarks among them
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("3fff::/20"),  # documentation
)
# Where the IPv4 address lies in those that stand for one: the bits to the right of it.
_EMBEDDED = (
    (IPv6Network("::ffff:0:0/96"), 0),  # mapped
    (IPv6Network("::/96"), 0),  # compatible
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (IPv6Network("2002::/16"), 80),  # 6to4
)


def is_readable(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Whether an import may read an address: a public one, or one in a network that the operator named.

    NAT64's local prefix (64:ff9b:1::/48) and Teredo are refused whole: where the IPv4 address lies in the first is up
    to each network, and no server lives at the second.
    """
    named = tuple(allowed)
    if any(address in network for network in named):
        return True
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    for network, shift in _EMBEDDED:
        if address in network:
            return is_readable(IPv4Address(int(address) >> shift & 0xFFFFFFFF), named)
    return address in _UNICAST_V6 and not any(address in network for network in _REFUSED_V6)
