"""Networks for the tests of what they mean: as authors of agents write them, generated."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from backends.frozen import replace
from backends.network.policy import Ceiling, NetworkPolicy
from mxc_ops import ConfigError, PolicyRefused, network

NAMES = ("example.test", "*.example.test", "*", "a-b.example.org")
ADDRESSES = ("192.0.2.0/24", "192.0.2.7", "10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "::ffff:10.1.2.3")

_PORTS = st.sampled_from(["", ":443", ":8000-8010"])
_PROTOCOLS = st.sampled_from(["", "/tcp", "/udp"])


def _destination(host: str, port: str, protocol: str) -> str:
    return f"[{host}]{port}{protocol}" if ":" in host and port else f"{host}{port}{protocol}"


DESTINATIONS = st.one_of(
    st.builds(_destination, st.sampled_from(NAMES), _PORTS, st.sampled_from(["", "/tcp"])),
    st.builds(_destination, st.sampled_from(ADDRESSES), _PORTS, _PROTOCOLS),
    st.sampled_from(ADDRESSES).map(lambda host: f"{host}/icmp"),
)

ARGUMENTS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "default": st.sampled_from(["allow", "deny"]),
        "allow": st.lists(DESTINATIONS, max_size=4),
        "deny": st.lists(DESTINATIONS, max_size=4),
        "may_allow": st.lists(DESTINATIONS, max_size=2),
        "publish": st.lists(
            st.sampled_from(["8080:80", "127.0.0.2:8080:80", "[::1]:8080:80", "192.0.2.10:53:53/udp"]),
            max_size=3,
            unique=True,
        ),
        "reach_host": st.lists(st.sampled_from(["5432", "6379:6380", "53/udp"]), max_size=2),
        "proxy": st.sampled_from([None, "http://127.0.0.1:3128", "https://[::1]:1", "http://localhost:8080"]),
    },
)


def _made(arguments: dict[str, Any]) -> NetworkPolicy | None:
    try:
        return network(**arguments)
    except (ConfigError, PolicyRefused):
        return None


NETWORKS = ARGUMENTS.map(_made).filter(lambda made: made is not None)


def without_pointers(policy: NetworkPolicy) -> NetworkPolicy:
    """Without what differs by design between two ways of writing it: where that was written."""

    def bare(entries: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(entry, pointer="") for entry in entries)

    return NetworkPolicy(
        policy.egress_allowed,
        bare(policy.deny),
        bare(policy.allow),
        bare(policy.names),
        bare(policy.denied_names),
        bare(policy.mappings),
        None if policy.proxy is None else replace(policy.proxy, pointer=""),
        Ceiling(bare(policy.ceiling.allow), bare(policy.ceiling.names)),
    )
