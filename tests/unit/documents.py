"""Documents for the tests of what documents mean: loaded from Python values, and generated."""

from __future__ import annotations

import json
from typing import Any, cast

from hypothesis import strategies as st

from mxc_ops.config.document import Document
from mxc_ops.config.loader import load

VERSIONS = ("0.4.0-alpha", "0.5.0-alpha", "0.6.0-alpha", "0.7.0-alpha", "0.8.0-alpha", "0.9.0-dev", None)


def loaded(**fields: Any) -> Document:
    """The document with these fields; says what to run unless `process` or `phase` does."""
    if "phase" not in fields:
        fields.setdefault("process", {"commandLine": "true"})
    return load(json.dumps(fields).encode())


def look_up(body: Any, pointer: str) -> Any:
    """What stands at a JSON pointer. Raises KeyError or IndexError when nothing does."""
    place = body
    for segment in pointer.split("/")[1:]:
        place = cast("Any", place[int(segment)] if isinstance(place, list) else place[segment])
    return place


def reloaded(body: dict[str, Any]) -> Document:
    return load(json.dumps(body).encode())


HOSTS = st.sampled_from(
    [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.3",
        "10.1.2.3/8",
        "192.0.2.7/32",
        "0.0.0.0/0",
        "::/0",
        "2001:db8::/32",
        "2001:db8::1",
        "10.0.0.0/255.0.0.0",
        "fe80::1%eth0",
        "api.example.com",
        "localhost",
        "*.example.com",
        "",
    ]
)

PROXIES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"localhost": st.integers(1, 65535)}),
    st.just({"builtinTestServer": True}),
    st.sampled_from(
        [
            "http://127.0.0.1:8080",
            "https://localhost:3128",
            "http://[::1]:8080",
            "http://127.0.0.2:8080",
            "http://proxy.example:8080",
            "http://user:word@127.0.0.1:8080",
            "http://127.0.0.1:8080/path",
        ]
    ).map(lambda url: {"url": url}),
)

LEGACY_NETWORKS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "defaultPolicy": st.sampled_from(["allow", "block", None]),
        "enforcementMode": st.sampled_from(["capabilities", "firewall", "both"]),
        "allowedHosts": st.lists(HOSTS, max_size=3),
        "blockedHosts": st.lists(HOSTS, max_size=3),
        "allowLocalNetwork": st.booleans(),
        "proxy": PROXIES,
    },
)

PATHS = st.sampled_from(["/srv", "/srv/", "/srv/data", "/srv//data", "/srv\\data", "/var/lib/x", "/home/me"])

FILESYSTEMS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        name: st.none() | st.lists(PATHS, max_size=3)
        for name in ("readwritePaths", "readonlyPaths", "deniedPaths")
    },
)

_FLAGS = st.none() | st.booleans()

SECTIONS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "processcontainer": st.fixed_dictionaries(
        {},
        optional={
            "leastPrivilege": _FLAGS,
            "capabilities": st.lists(
                st.sampled_from(["internetClient", "a,b", "LearningModeLogging", "permissiveLearningMode"]),
                max_size=3,
            ),
            "ui": st.fixed_dictionaries(
                {}, optional={"ime": _FLAGS, "systemSettings": st.sampled_from(["none", "all", "mine"])}
            ),
        },
    ),
    "seatbelt": st.fixed_dictionaries(
        {}, optional={"launchMethod": st.sampled_from(["exec", "open"]), "guiAccess": _FLAGS}
    ),
    "lxc": st.fixed_dictionaries(
        {"distribution": st.just("alpine"), "release": st.just("3.20")},
    ),
    "wslc": st.fixed_dictionaries(
        {},
        optional={"image": st.just("alpine:latest"), "cpuCount": st.integers(1, 8), "gpu": _FLAGS},
    ),
}
_SECTION_NAMES = {"processcontainer": "processContainer", "seatbelt": "seatbelt", "lxc": "lxc"}


@st.composite
def ranged_bodies(draw: st.DrawFn) -> dict[str, Any]:
    """One-shot documents of the ranged line in the legacy network form."""
    containment = draw(st.sampled_from([None, "process", "bubblewrap", *SECTIONS]))
    body: dict[str, Any] = {
        "version": draw(st.sampled_from(["0.7.0-alpha", "0.6.0-alpha"])),
        "containment": containment,
        "process": {
            "commandLine": "true",
            "cwd": draw(st.sampled_from([None, "/srv"])),
            "env": draw(st.none() | st.lists(st.sampled_from(["A=1", "A=2", "B=x=y"]), max_size=3)),
        },
        "filesystem": draw(FILESYSTEMS),
        "network": draw(st.none() | LEGACY_NETWORKS),
        "ui": draw(st.fixed_dictionaries({}, optional={"disable": _FLAGS, "injection": _FLAGS})),
        "mxcOps": draw(st.fixed_dictionaries({}, optional={"limits": st.just({"memoryMib": 64})})),
    }
    if containment in _SECTION_NAMES and draw(st.booleans()):
        body[_SECTION_NAMES[containment]] = draw(SECTIONS[containment])
    experimental: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "telemetry": st.fixed_dictionaries({}, optional={"enabled": _FLAGS}),
                "test": st.just({"message": "hello"}),
            },
        )
    )
    if containment == "wslc":
        experimental["wslc"] = draw(SECTIONS["wslc"])
    return {**body, "experimental": experimental}
