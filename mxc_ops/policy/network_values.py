"""The values of network policies: addresses, host names, a proxy's address; what is wrong with a text. Pure.

What is slow to import is imported where it is needed: most documents have no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.errors import Problem
from backends.frozen import frozen
from backends.network.ranges import parse

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    Network = IPv4Network | IPv6Network

__all__ = [
    "ProxyAddress",
    "address_of",
    "is_loopback",
    "is_plain_network",
    "normalised",
    "pattern_fault",
    "pattern_of",
    "private_fault",
    "proxy_address",
    "proxy_fault",
    "read_network",
    "shown",
    "suggested_pattern",
]

_LONGEST_NAME = 253  # RFC 1035 §2.3.4, without the root's dot
_LONGEST_LABEL = 63
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_NEVER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::/127", "fe80::/10", "ff00::/8")
A_NETWORK = "a network such as 192.0.2.0/24 or 2001:db8::/32, or one address"


def shown(text: str) -> str:
    """A text for a message, without whatever could be credentials."""
    from mxc_ops.config import wording

    user, at, rest = text.rpartition("@")
    return wording.shown(f"***@{rest}" if user and at else text)


# --- addresses -------------------------------------------------------------------------------------


def read_network(text: str) -> Network | Problem:
    """The network that `text` names (a bare address is a network of one), or what is wrong with it.

    Netmasks and zone ids are not read, as upstream does not read them; the problem's path is empty.
    """
    from ipaddress import ip_network

    address, slash, length = text.partition("/")
    plain_length = not slash or (
        length.isascii() and length.isdigit() and (length == "0" or length[0] != "0")
    )
    message = f"{shown(text)} is not an IP network"
    if not plain_length or "%" in address:
        return Problem("invalid_value", "", message, expected=A_NETWORK)
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        whole = ip_network(text, strict=False)
    except ValueError:
        message = f"{message} (names are for mxcOps.network.names)"
        return Problem("invalid_value", "", message, expected=A_NETWORK)
    return Problem(
        "invalid_value",
        "",
        f"{shown(text)} has bits set in its host part",
        expected=A_NETWORK,
        fix=f"write {whole}, or {address} for the one address",
    )


def is_plain_network(text: str) -> bool:
    """Whether `text` is an IPv4 address or network in the one spelling that it has.

    That is what most entries are, and told twenty times as fast as by `read_network`, for lists of thousands.
    """
    if ":" in text:
        return False
    try:
        parse(text)
    except ValueError:
        return False
    return True


def normalised(cidr: str, excepted: tuple[str, ...] = ()) -> tuple[str, tuple[str, ...]]:
    """A network and what is taken out of it, in one spelling.

    IPv4-mapped IPv6 networks of /96 or longer are the IPv4 ones that they stand for, and what is taken out of
    them too; a shorter one that holds them is of IPv6 alone (policy-semantics.md §3.1). Raises `ValueError`
    for what is no network.
    """
    if not excepted and is_plain_network(cidr):
        return cidr if "/" in cidr else f"{cidr}/32", ()
    from ipaddress import ip_network

    network = _as_ipv4(ip_network(cidr))
    inner = (ip_network(text) for text in excepted)
    return str(network), tuple(str(_as_ipv4(one) if network.version == 4 else one) for one in inner)


def _as_ipv4(network: Network) -> Network:
    from ipaddress import IPv4Network

    if network.version == 4 or network.prefixlen < 96:
        return network
    value = int(network.network_address)
    return IPv4Network((value & 0xFFFFFFFF, network.prefixlen - 96)) if value >> 32 == 0xFFFF else network


def address_of(text: str) -> str | None:
    """The one address that `text` is, in one spelling (an IPv4-mapped one as IPv4); None when it is none."""
    from ipaddress import ip_address

    try:
        address = ip_address(text)
    except ValueError:
        return None
    if address.version == 4:
        return str(address)
    if address.scope_id is not None:
        return None
    return str(address.ipv4_mapped or address)


def is_loopback(address: str) -> bool:
    """Whether an address, as `address_of` spells it, is of the loopback."""
    return address.startswith("127.") or address == "::1"


def private_fault(text: str) -> str:
    """Why `text` is not a network in which a name's addresses may lie besides public ones; "" when it is.

    What the filtering proxy never connects to is none of them: loopback (a port of the host's is reached by a
    mapping), link-local (where clouds hand out credentials) and multicast.
    """
    from ipaddress import ip_network

    network = ip_network(normalised(text)[0])
    if any(network.overlaps(ip_network(never)) for never in _NEVER):
        return f"{shown(text)} holds addresses that no name leads to: loopback, link-local or multicast"
    if not (network.is_private or _is_shared(network)):
        return f"{shown(text)} is public, or holds public addresses, which every name may have anyway"
    return ""


def _is_shared(network: Network) -> bool:
    """Addresses of carriers, which Python counts neither among the public nor the private: RFC 6598."""
    from ipaddress import IPv4Network

    return isinstance(network, IPv4Network) and network.subnet_of(IPv4Network("100.64.0.0/10"))


# --- names -----------------------------------------------------------------------------------------


def pattern_of(text: str) -> str | None:
    """A host's name, ``*.`` and a name, or ``*``, in lower case without a last dot; None when it is none.

    Labels are of letters, digits, ``-`` and ``_`` (RFC 1123 §2.1, and what hosts are called in practice).
    What ends in a number is none: resolvers read it as an address.
    """
    if text == "*":
        return text
    pattern = text.lower().removesuffix(".")
    name = pattern.removeprefix("*.")
    labels = name.split(".")
    valid = (
        text.isascii()
        and len(name) <= _LONGEST_NAME
        and all(map(_is_label, labels))
        and not _is_number(labels[-1])
    )
    return pattern if valid else None


def _is_label(label: str) -> bool:
    edges = label[:1] + label[-1:]
    return 1 <= len(label) <= _LONGEST_LABEL and _LABEL.issuperset(label) and "-" not in edges


def _is_number(label: str) -> bool:
    digits = label.removeprefix("0x")
    return label.isdigit() or (digits != label and all(digit in "0123456789abcdef" for digit in digits))


def pattern_fault(text: str) -> str:
    """Why `pattern_of` answers None, as far as that can be told; "" when it does not."""
    if pattern_of(text) is not None:
        return ""
    if not text.strip():
        return "the name is empty"
    if "://" in text:
        return "it is a URL, not a host's name"
    if not isinstance(read_network(text), Problem):
        return "it is an address, not a name"
    if not text.isascii():
        return "names are written in their ASCII form (xn--…)"
    if "*" in text:
        return "a '*' stands for the whole name, or for all that is before a '.' and a name"
    if ":" in text or "/" in text:
        return "it has a port or a path, and only a host's name is meant"
    return "it is not a host's name"


def suggested_pattern(text: str) -> str | None:
    """What was probably meant by a text that is no host's name: its host, if it is a URL or has a port."""
    host = (text.partition("://")[2] or text).partition("/")[0].rpartition("@")[2]
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        host = host.encode("idna").decode()
    except UnicodeError:
        return None
    return pattern_of(host)


# --- a proxy's address -----------------------------------------------------------------------------


@frozen
class ProxyAddress:
    """`host` in lower case, without brackets."""

    scheme: str
    host: str
    port: int
    has_credentials: bool


def proxy_address(url: str) -> ProxyAddress | str:
    """Read a proxy's address; a text is what is wrong with it, and holds nothing of it.

    Credentials are whatever stands before an ``@``, unless that is nothing or ``:`` alone
    (policy-semantics.md §3.3).
    """
    from urllib.parse import urlsplit

    if any(character <= " " or character in "\\\x7f" for character in url):
        return "the address contains a blank, a backslash or a control character"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "the address cannot be read"
    if parts.scheme not in ("http", "https"):
        return "the address must use the scheme http or https"
    if not host:
        return "the address must include a host"
    if not port:
        return "the address must include a port"
    user, _, _ = parts.netloc.rpartition("@")
    return ProxyAddress(parts.scheme, host, port, user not in ("", ":"))


def proxy_fault(address: ProxyAddress) -> tuple[str, str, str]:
    """(code, message, fix) when a sandbox cannot be given this proxy; the code is "" when it can.

    It must be on the host's loopback. Credentials would be seen in the variables, and by whoever looks at
    arguments or logs.
    """
    if address.has_credentials:
        fix = "let a proxy on the loopback, such as 127.0.0.1:3128, add the credentials, and name that one"
        return "proxy_credentials", "the proxy's address holds credentials, which would be seen", fix
    if address.host not in _LOOPBACK:
        fix = (
            'start a proxy on the loopback that passes on to it, or list the hosts: "mxcOps": {"network":'
            ' {"names": [{"name": "example.test"}]}}'
        )
        return "proxy_not_local", "the proxy is not on this host's loopback", fix
    return "", "", ""
