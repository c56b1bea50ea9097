"""`mxcOps`, our one root key: its fields, its rules, and where it is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from mxc_ops.config.models.editions import CONTRACTS, EXACT
from tests.unit.config_cases import CONTRACT, accept, one_shot, problems, signs

FULL: dict[str, Any] = {
    "limits": {
        "memoryMib": 256,
        "pids": 64,
        "cpus": 0.5,
        "cpuSeconds": 10,
        "fileSizeMib": 1,
        "openFiles": 16,
        "tmpMib": 8,
        "bestEffort": ["cpus"],
    },
    "user": 1000,
    "group": 1000,
    "seccomp": "strict",
    "stdin": {"text": ""},
    "tty": False,
    "timeout": {"graceMs": 0, "signal": "INT"},
    "optionalPaths": ["/a", "/b"],
    "env": {"TOKEN": {"file": "/run/token"}, "KEY": {"fd": 3}},
    "vm": {
        "image": "base",
        "memoryMib": 96,
        "cpus": 1,
        "accel": "auto",
        "machine": "q35",
        "command": "shell",
    },
    "network": {
        "names": [
            {
                "name": "*.example.test",
                "ports": [80, {"port": 8000, "endPort": 8010}],
                "methods": ["GET", "HEAD"],
                "addresses": ["10.0.0.0/8", "fd00::1", "100.64.0.0/10"],
                "inspect": "http",
            },
            {"name": "*", "inspect": "none"},
        ],
        "deniedNames": [{"name": "a.test."}],
        "ceiling": {
            "egress": [{"to": [{"cidr": "192.0.2.0/24", "except": ["192.0.2.7"]}], "ports": [{"port": 1}]}],
            "names": [{"name": "b.test", "ports": [80], "methods": ["GET"]}],
        },
    },
    "portMappings": [
        {"direction": "toSandbox", "hostPort": 8080, "sandboxPort": 80},
        {"direction": "toSandbox", "hostAddress": "127.0.0.2", "hostPort": 8080, "sandboxPort": 80},
        {"direction": "toSandbox", "protocol": "udp", "hostPort": 8080, "sandboxPort": 80},
        {"direction": "toHost", "hostAddress": "::1", "hostPort": 8080, "sandboxPort": 5432},
    ],
}
GRANTS = {"readonlyPaths": ["/a"], "readwritePaths": ["/b"]}

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"limits": {"memoryMib": 0}}, "out_of_range", "/limits/memoryMib"),
    ({"limits": {"pids": 1.0}}, "wrong_type", "/limits/pids"),
    ({"limits": {"memoryMib": 2**43}}, "out_of_range", "/limits/memoryMib"),
    ({"limits": {"pids": 2**22 + 1}}, "out_of_range", "/limits/pids"),
    ({"limits": {"cpus": 0.009}}, "out_of_range", "/limits/cpus"),
    ({"limits": {"cpus": 1e300}}, "out_of_range", "/limits/cpus"),
    ({"limits": {"fileSizeMib": 2**43}}, "out_of_range", "/limits/fileSizeMib"),
    ({"limits": {"tmpMib": 2**43}}, "out_of_range", "/limits/tmpMib"),
    ({"limits": {"cpuSeconds": 2**32}}, "out_of_range", "/limits/cpuSeconds"),
    ({"limits": {"cpus": "1"}}, "wrong_type", "/limits/cpus"),
    ({"limits": {"openFiles": 15}}, "out_of_range", "/limits/openFiles"),
    ({"limits": {"bestEffort": ["memory"]}}, "invalid_value", "/limits/bestEffort"),
    ({"limits": None}, "wrong_type", "/limits"),
    ({"user": 0}, "out_of_range", "/user"),
    ({"user": 2**32 - 2}, "out_of_range", "/user"),
    ({"group": "staff"}, "wrong_type", "/group"),
    ({"seccomp": "off"}, "invalid_value", "/seccomp"),
    ({"args": []}, "empty_value", "/args"),
    ({"stdin": "file"}, "invalid_value", "/stdin"),
    ({"stdin": {"file": "/a", "text": "b"}}, "invalid_value", "/stdin"),
    ({"stdin": {"file": "a"}}, "relative_path", "/stdin/file"),
    ({"tty": 1}, "wrong_type", "/tty"),
    ({"timeout": {"graceMs": 600_001}}, "out_of_range", "/timeout/graceMs"),
    ({"timeout": {"signal": "SIGTERM"}}, "invalid_value", "/timeout/signal"),
    ({"optionalPaths": ["/c"]}, "not_granted", "/optionalPaths/0"),
    ({"env": {"": {"fd": 3}}}, "empty_value", "/env/"),
    ({"env": {"A=B": {"fd": 3}}}, "invalid_value", "/env/A=B"),
    ({"env": {"A": {"fd": 2}}}, "invalid_value", "/env/A"),
    ({"env": {"A": "plain"}}, "invalid_value", "/env/A"),
    ({"env": {"A": {"file": "secret"}}}, "relative_path", "/env/A/file"),
    ({"netwrok": {}}, "unknown_field", "/netwrok"),
    ({"network": {"name": []}}, "unknown_field", "/network/name"),
    ({"network": {"names": ["a.test"]}}, "wrong_type", "/network/names/0"),
    ({"network": {"names": [{"ports": [1]}]}}, "missing_field", "/network/names/0/name"),
    *[
        ({"network": {"names": [{"name": name}]}}, "invalid_value", "/network/names/0/name")
        for name in (
            *(" ", "https://a.test", "a.test:443", "a.test/x", "192.0.2.1", "::1", "10.0.0.0/8", "1.2.3"),
            *("a..b", "-a.test", "a-.test", "a.*.test", "**", "*.", "*a.test", "ä.test", "a b", "0x7f.0x1"),
            *(
                "a" * 64,
                ".".join(["a" * 60] * 5),
                "a.test..",
                "127.1",
                "user@a.test",
                "\u212a.test",
                "[::1]",
                "%61.test",
            ),
        )
    ],
    ({"network": {"names": [{"name": "a", "ports": []}]}}, "empty_value", "/network/names/0/ports"),
    ({"network": {"names": [{"name": "a", "ports": [0]}]}}, "invalid_value", "/network/names/0/ports/0"),
    (
        {"network": {"names": [{"name": "a", "ports": [{"port": 2, "endPort": 1}]}]}},
        "out_of_range",
        "/network/names/0/ports/0/endPort",
    ),
    (
        {"network": {"names": [{"name": "a", "ports": [80], "methods": ["get"]}]}},
        "invalid_value",
        "/network/names/0/methods/0",
    ),
    *[
        ({"network": {"names": [{"name": "a", "methods": ["GET"], **rest}]}}, "conflicting_fields", where)
        for where in ("/network/names/0/methods",)
        for rest in ({}, {"ports": [80, 443]}, {"ports": [80], "inspect": "none"}, {"inspect": "tls"})
    ],
    *[
        (
            {"network": {"names": [{"name": "a", "addresses": [cidr]}]}},
            "invalid_value",
            "/network/names/0/addresses/0",
        )
        for cidr in (
            *("8.8.8.0/24", "0.0.0.0/0", "::/0", "10.0.0.0/7", "127.0.0.1", "::1", "::ffff:127.0.0.1"),
            *(
                "224.0.0.0/4",
                "0.0.0.0",
                "169.254.169.254",
                "fe80::/64",
                "10.0.0.1/8",
                "a.test",
                "2001:4860::/32",
            ),
        )
    ],
    (
        {"network": {"deniedNames": [{"name": "*.test.example:1"}]}},
        "invalid_value",
        "/network/deniedNames/0/name",
    ),
    (
        {"network": {"ceiling": {"egress": [{"to": [{"cidr": "10.0.0.1/8"}]}]}}},
        "invalid_value",
        "/network/ceiling/egress/0/to/0/cidr",
    ),
    (
        {"network": {"ceiling": {"names": [{"name": "http://a"}]}}},
        "invalid_value",
        "/network/ceiling/names/0/name",
    ),
    (
        {"network": {"deniedNames": [{"name": "a.test", "ports": [443]}]}},
        "unknown_field",
        "/network/deniedNames/0/ports",
    ),
    ({"portMappings": [{"hostPort": 1, "sandboxPort": 1}]}, "missing_field", "/portMappings/0/direction"),
    (
        {"portMappings": [{"direction": "toSandbox", "hostPort": 0, "sandboxPort": 1}]},
        "out_of_range",
        "/portMappings/0/hostPort",
    ),
    *[
        (
            {
                "portMappings": [
                    {"direction": direction, "hostAddress": address, "hostPort": 1, "sandboxPort": 1}
                ]
            },
            "invalid_value",
            "/portMappings/0/hostAddress",
        )
        for direction, addresses in (
            ("toSandbox", ("0.0.0.0", "::", "::ffff:0.0.0.0", "localhost", "fe80::1%eth0", "10.0.0.0/8")),
            ("toHost", ("192.0.2.1", "::ffff:192.0.2.1", "0.0.0.0", "fd00::1")),
        )
        for address in addresses
    ],
    (
        {"portMappings": [{"direction": "toSandbox", "hostPort": n, "sandboxPort": n} for n in range(1, 66)]},
        "out_of_range",
        "/portMappings",
    ),
    *[
        (
            {
                "portMappings": [
                    {"hostAddress": "127.0.0.1", "hostPort": 1, "sandboxPort": 1, **one}
                    for one in (first, second)
                ]
            },
            "duplicate_value",
            f"/portMappings/{at}",
        )
        for first, second, at in (
            ({"direction": "toSandbox"}, {"direction": "toSandbox", "sandboxPort": 2}, 1),
            ({"direction": "toSandbox"}, {"direction": "toSandbox", "hostAddress": "::ffff:127.0.0.1"}, 1),
            ({"direction": "toHost"}, {"direction": "toHost", "hostPort": 2}, 1),
            ({"direction": "toHost"}, {"direction": "toSandbox", "hostPort": 2}, 1),
            ({"direction": "toSandbox", "hostPort": 2}, {"direction": "toHost"}, 0),
        )
    ],
]


@pytest.mark.parametrize("version", [None, "0.4.0-alpha", "0.8.0-alpha", "0.9.0-dev", *EXACT])
def test_every_version_takes_all_of_it_by_default(version: str | None) -> None:
    assert accept(one_shot(version, mxcOps=FULL, filesystem=GRANTS)) == ()


@pytest.mark.parametrize("version", CONTRACTS)
def test_no_contract_takes_it(version: str) -> None:
    (problem,) = problems(one_shot(version, mxcOps={}), **CONTRACT)
    assert (problem.code, problem.path) == ("unknown_field", "/mxcOps")
    assert "extension" in problem.fix


@pytest.mark.parametrize(("extension", "code", "where"), BAD)
@pytest.mark.parametrize("version", ["0.8.0-alpha", "1.0.0"])
def test_a_bad_field_of_it_is_named(version: str, extension: dict[str, Any], code: str, where: str) -> None:
    assert signs(one_shot(version, mxcOps=extension, filesystem=GRANTS)) == {(code, f"/mxcOps{where}")}


@pytest.mark.parametrize("version", [None, *EXACT])
def test_args_take_the_place_of_the_command_line(version: str | None) -> None:
    document = one_shot(version, mxcOps={"args": ["true", ""]})
    assert signs(document) == {("conflicting_fields", "/mxcOps/args")}
    document["process"] = {"cwd": "/", "env": ["A=b"], "timeout": 1}
    assert accept(document) == ()
    del document["process"]
    assert accept(document) == ()
    document["mxcOps"] = {"args": [""]}
    assert signs(document) == {("empty_value", "/mxcOps/args/0")}


def test_unreadable_args_are_not_also_a_missing_command() -> None:
    assert signs({"version": "1.0.0", "mxcOps": {"args": "true"}}) == {("wrong_type", "/mxcOps/args")}


def test_a_variable_comes_from_one_place() -> None:
    document = one_shot(process={"commandLine": "a", "env": ["A=b"]}, mxcOps={"env": {"A": {"fd": 3}}})
    assert signs(document) == {("conflicting_fields", "/mxcOps/env/A")}


def test_it_belongs_to_requests_that_create_or_run_something() -> None:
    limits = {"limits": {"pids": 1}}
    base: dict[str, Any] = {"version": "0.8.0-alpha", "mxcOps": limits}
    accept({**base, "phase": "provision", "containment": "wslc"})
    accept({**base, "phase": "exec", "sandboxId": "wslc:x", "mxcOps": {"args": ["true"]}})
    assert signs({**base, "phase": "stop", "sandboxId": "wslc:x"}) == {("foreign_field", "/mxcOps")}
    assert signs({**base, "version": "1.0.0", "phase": "stop", "sandboxId": "x"}) == {
        ("unknown_field", "/mxcOps")
    }
