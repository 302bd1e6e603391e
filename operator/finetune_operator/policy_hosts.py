"""Hosts that jobs name: what they are, which of them no job should reach, and which a policy's list holds.

Names are compared, never resolved: what a name stands for may change between the look and the use. A
NetworkPolicy of the tenant's namespace is what bounds where its pods can go.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

_AUTHORITY = re.compile(
    r"https?://((?P<name>[-_.A-Za-z0-9]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])(:(?P<port>[0-9]{1,5}))?(?=/|$)"
)
_NUMERIC = re.compile(r"(0[xX][0-9A-Fa-f]+|[0-9]+)(\.(0[xX][0-9A-Fa-f]+|[0-9]+)){0,3}")
_METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "metadata.platformequinix.com",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
# AWS and Google by IPv6, Alibaba, Azure's wire server, Oracle; the others are link-local.
_METADATA_ADDRESSES = frozenset(
    map(ipaddress.ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"))
)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Host:
    """A host name in lower case without a final dot, or an address in its one spelling; and a port."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


def host_of_url(url: str) -> Host:
    """The host of an http(s) URL; the port is its scheme's where it says none.

    Raises ValueError where there is more than a host and a port, such as a user, on whose meaning readers disagree.
    """
    match = _AUTHORITY.match(url)
    if match is None:
        raise ValueError("no plain host and port")
    port = int(match["port"]) if match["port"] else (443 if url.startswith("https:") else 80)
    return Host(_spelt(match["name"] or match["v6"]), port)


def host_of_entry(entry: str) -> Host:
    """A policy's entry, `host`, `host:port`, `[address]` or `*.domain`."""
    name, port = entry, None
    match = re.fullmatch(r"(?P<name>[^:\[\]]+|\[(?P<v6>[^\]]+)\]):(?P<port>[0-9]+)", entry)
    if match:
        name, port = match["v6"] or match["name"], int(match["port"])
    return Host(_spelt(name.strip("[]")), port)


def is_listed(host: Host, entries: Iterable[str], *, literally: bool = False) -> bool:
    """Whether one of a policy's entries is `host`, or a `*.domain` that holds it; `literally`: the first alone."""
    return any(_matches(host_of_entry(entry), host, literally=literally) for entry in entries)


def _matches(entry: Host, host: Host, *, literally: bool) -> bool:
    if entry.port is not None and entry.port != host.port:
        return False
    if entry.name.startswith("*."):
        return not literally and host.name.endswith(entry.name[1:]) and _address(host.name) is None
    return entry.name == host.name


def danger(host: Host) -> str | None:
    """What `host` is where no job should reach it: loopback, link-local, a metadata service; else None."""
    address = _address(host.name)
    if address is None:
        if host.name == "localhost" or host.name.endswith((".localhost", ".localdomain")):
            return "a loopback address"
        return "a cloud's metadata service" if host.name in _METADATA_NAMES else None
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or address
    if address in _METADATA_ADDRESSES:
        return "a cloud's metadata service"
    if address.is_loopback or address.is_unspecified:
        return "a loopback address"
    return "a link-local address" if address.is_link_local or address.is_multicast else None


def _spelt(name: str) -> str:
    name = name.lower().rstrip(".")
    address = _address(name)
    return name if address is None else str(address)


def _address(name: str) -> Address | None:
    """The address that a resolver makes of `name` without asking: also of `127.1`, `0x7f000001` and `2130706433`."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    if not _NUMERIC.fullmatch(name):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(name))
    except OSError:
        return None
