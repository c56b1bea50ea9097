"""The variables of a workload that has a proxy: ours, and none of the caller's of these names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.network.environment import proxy_environment, uses_proxy
from backends.network.policy import NO_NETWORK, Ceiling, NameRule, NetworkPolicy, ProxyEndpoint, Rule

URL = "http://10.0.2.2:3128"
TOLD = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY")
EIGHT = {*TOLD, *map(str.lower, TOLD)}
NAME = NameRule("names.0", "", "a.test")

_CASED = st.sampled_from([*TOLD, "NO_PROXY"]).flatmap(
    lambda name: st.lists(st.booleans(), min_size=len(name), max_size=len(name)).map(
        lambda upper: "".join(
            letter if up else letter.lower() for letter, up in zip(name, upper, strict=True)
        )
    )
)


@given(st.lists(st.tuples(_CASED | st.sampled_from(["PATH", "PROXY", "HTTP_PROXY_X"]), st.text(max_size=3))))
def test_callers_proxies_are_taken_out_in_whatever_case(entries: list[tuple[str, str]]) -> None:
    made = proxy_environment(tuple(entries), URL, empty_no_proxy=False)
    ours = {name: value for name, value in made if name.upper() in {*TOLD, "NO_PROXY"}}
    assert ours == dict.fromkeys(EIGHT, URL)
    others = [pair for pair in entries if pair[0] in ("PATH", "PROXY", "HTTP_PROXY_X")]
    assert list(made[: len(others)]) == others


def test_the_exceptions_are_empty_where_that_is_said() -> None:
    made = dict(proxy_environment((("no_proxy", "*"),), URL, empty_no_proxy=True))
    assert (made["NO_PROXY"], made["no_proxy"], len(made)) == ("", "", 10)


@pytest.mark.parametrize(
    ("policy", "uses"),
    [
        (NO_NETWORK, False),
        (NetworkPolicy(egress_allowed=True), False),
        (NetworkPolicy(allow=(Rule("", ""),)), False),
        (NetworkPolicy(proxy=ProxyEndpoint("", "http", "127.0.0.1", 1)), True),
        (NetworkPolicy(names=(NAME,)), True),
        (NetworkPolicy(ceiling=Ceiling(names=(NAME,))), True),
    ],
)
def test_a_proxy_is_in_use_for_names_or_when_it_is_the_callers(policy: NetworkPolicy, uses: bool) -> None:
    assert uses_proxy(policy) is uses
