"""`Policy`: what it refuses, and that it says the same as a document."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import SandboxRequest
from backends.frozen import replace
from mxc_ops import ConfigError, Limits, Policy, PolicyRefused, Sandbox, SecretSource, Stdin, StdinMode
from mxc_ops.config.loader import load
from mxc_ops.config.request import build_request
from tests.unit.networks import NETWORKS, without_pointers

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
PATHS = st.lists(TEXT.map(lambda name: "/srv/" + (name.replace('"', "") or "x")), max_size=3, unique=True)
NAMES = st.text(st.characters(exclude_characters="\0=", exclude_categories=["Cs"]), min_size=1, max_size=8)

POLICIES = st.builds(
    Policy,
    read_only=PATHS,
    read_write=PATHS,
    denied=PATHS,
    env=st.none() | st.dictionaries(NAMES, TEXT, max_size=3),
    limits=st.builds(
        Limits,
        memory_mib=st.none() | st.integers(1, 10**6),
        cpus=st.none() | st.floats(0.1, 64),
        open_files=st.none() | st.integers(16, 10**6),
        best_effort=st.frozensets(st.sampled_from(["memoryMib", "pids"])),
    ),
    timeout_s=st.none() | st.integers(1, 10**6).map(lambda ms: ms / 1000),
    grace_s=st.integers(0, 600_000).map(lambda ms: ms / 1000),
    timeout_signal=st.sampled_from(["TERM", "INT", "KILL"]),
    cwd=TEXT.map(lambda name: f"/{name}"),
    seccomp=st.sampled_from(["default", "strict", "debug"]),
    stdin=st.sampled_from([Stdin(), Stdin(StdinMode.NONE)])
    | TEXT.map(lambda text: Stdin(StdinMode.TEXT, text)),
    tty=st.booleans(),
    user=st.none() | st.integers(1, 4294967293),
    network=NETWORKS,
)
COMMANDS = TEXT.filter(str.strip) | st.lists(TEXT, min_size=1, max_size=3).filter(
    lambda words: bool(words[0])
)


def bare(request: SandboxRequest) -> SandboxRequest:
    """Without what differs by design: where an error message points to."""
    grants = tuple(sorted((replace(grant, pointer="") for grant in request.grants), key=str))
    network = without_pointers(request.network)
    return replace(request, pointers={}, grants=grants, network=network, asked=(), warnings=())


@given(policy=POLICIES, command=COMMANDS)
def test_a_policy_and_the_document_it_writes_ask_for_the_same(policy: Policy, command: str | list[str]):
    document = load(json.dumps(policy.as_config(command)).encode())
    assert bare(policy.request(command)) == bare(build_request(document))


@given(policy=POLICIES, command=COMMANDS)
def test_a_policy_survives_the_way_through_a_document(policy: Policy, command: str | list[str]):
    back = Policy.from_config(policy.as_config(command))
    same = replace(back.request(command), document_hash=policy.request(command).document_hash)
    assert bare(same) == bare(policy.request(command))


def test_a_document_loses_its_command_and_keeps_its_policy():
    document = {
        "version": "0.8.0-alpha",
        "process": {"commandLine": "rm -rf /", "timeout": 1500, "env": ["A=b=c"]},
        "filesystem": {"readonlyPaths": ["/srv"], "deniedPaths": ["/srv/x"]},
        "mxcOps": {"limits": {"pids": 5}, "optionalPaths": ["/srv"]},
    }
    policy = Policy.from_config(document)
    assert (policy.read_only, policy.denied, policy.optional) == (("/srv",), ("/srv/x",), ("/srv",))
    assert (policy.timeout_s, policy.limits.pids, policy.env) == (1.5, 5, {"A": "b=c"})
    assert policy.request("true").shell == "true"


def test_a_document_that_asks_for_what_no_policy_can_say_becomes_none():
    document = {
        "version": "0.8.0-alpha",
        "process": {"commandLine": "true"},
        "lifecycle": {"preservePolicy": True},
    }
    with pytest.raises(PolicyRefused, match="preservePolicy"):
        Policy.from_config(document)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "relative path": ({"read_only": ["srv"]}, "read_only[0]"),
    "empty path": ({"denied": [" "]}, "denied[0]"),
    "path with NUL": ({"read_write": ["/a", "/\0"]}, "read_write[1]"),
    "lone path": ({"read_only": "/srv"}, "read_only"),
    "not text": ({"read_only": [b"/srv"]}, "read_only[0]"),
    "not granted": ({"optional": ["/srv"]}, "optional[0]"),
    "lone surrogate": ({"read_only": ["/\ud800"]}, "read_only[0]"),
    "env name": ({"env": {"A=B": "c"}}, "env['A=B']"),
    "env value": ({"env": {"A": 1}}, "env['A']"),
    "env NUL": ({"env": {"A": "\0"}}, "env['A']"),
    "env too long": ({"env": {"A": "x" * 2**17}}, "env['A']"),
    "env list": ({"env": ["A=b"]}, "env"),
    "secret of nothing": ({"env": {"A": SecretSource()}}, "env['A']"),
    "secret in a relative file": ({"env": {"A": SecretSource(file="x")}}, "env['A']"),
    "secret on stdin": ({"env": {"A": SecretSource(fd=0)}}, "env['A']"),
    "memory": ({"limits": Limits(memory_mib=0)}, "limits.memory_mib"),
    "open files": ({"limits": Limits(open_files=15)}, "limits.open_files"),
    "cpus below what a quota can say": ({"limits": Limits(cpus=0.009)}, "limits.cpus"),
    "cpus above what a quota can say": ({"limits": Limits(cpus=1e300)}, "limits.cpus"),
    "file size beyond 64 bits": ({"limits": Limits(file_size_mib=2**43)}, "limits.file_size_mib"),
    "more pids than Linux has": ({"limits": Limits(pids=2**22 + 1)}, "limits.pids"),
    "infinite cpus": ({"limits": Limits(cpus=float("inf"))}, "limits.cpus"),
    "fraction": ({"limits": Limits(pids=1.5)}, "limits.pids"),  # type: ignore[arg-type]
    "flag as number": ({"limits": Limits(pids=True)}, "limits.pids"),
    "unknown limit": ({"limits": Limits(best_effort=frozenset({"disk"}))}, "limits.best_effort"),
    "no limits": ({"limits": {"pids": 1}}, "limits"),
    "timeout": ({"timeout_s": 0}, "timeout_s"),
    "timeout NaN": ({"timeout_s": float("nan")}, "timeout_s"),
    "grace": ({"grace_s": 601}, "grace_s"),
    "signal": ({"timeout_signal": "SIGTERM"}, "timeout_signal"),
    "seccomp": ({"seccomp": "off"}, "seccomp"),
    "no containment": ({"containment": ""}, "containment"),
    "cwd": ({"cwd": "srv"}, "cwd"),
    "user": ({"user": 0}, "user"),
    "group": ({"group": 2**32}, "group"),
    "stdin": ({"stdin": "none"}, "stdin"),
    "no network": ({"network": {"egress": "allow"}}, "network"),
    "no network at all": ({"network": None}, "network"),
    "stdin file": ({"stdin": Stdin(StdinMode.FILE, "x")}, "stdin"),
}


@pytest.mark.parametrize(("arguments", "pointer"), WRONG.values(), ids=WRONG.keys())
def test_a_malformed_argument_is_refused_by_name(arguments: dict[str, Any], pointer: str):
    with pytest.raises(ConfigError) as caught:
        Policy(**arguments)
    assert [problem.path for problem in caught.value.problems] == [pointer]


def test_a_command_that_no_kernel_starts_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match=r"^command: longer than the 131072 bytes"):
        Policy().request("#" * 2**17)
    with pytest.raises(ConfigError, match=r"^command\[1\]: longer than the 131072 bytes"):
        Policy().request(["true", "x" * 2**17, "y"])
    assert Policy().request("#" * (2**17 - 1)).shell


def test_all_malformed_arguments_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        Policy(read_only=["x"], timeout_s=-1, cwd="y")
    assert [problem.path for problem in caught.value.problems] == ["read_only[0]", "timeout_s", "cwd"]


@pytest.mark.parametrize("command", ["", " \t", [], [""], "a\0b", ["a", "\0"], ["a", 1]])
def test_a_command_that_cannot_be_started_is_refused(command: Any):
    with pytest.raises(ConfigError, match="command"):
        Policy().request(command)


def test_a_policy_is_immutable_and_changed_by_copies_that_are_checked_again():
    policy = Policy(read_only=["/srv"], timeout_s=5)
    with pytest.raises(FrozenInstanceError):
        policy.timeout_s = 6  # type: ignore[misc]
    assert policy.replace(timeout_s=6).timeout_s == 6
    assert policy.timeout_s == 5
    with pytest.raises(ConfigError):
        policy.replace(timeout_s=-6)


def test_a_policy_does_not_follow_what_it_was_made_from():
    paths, env = ["/srv"], {"A": "b"}
    policy = Policy(read_only=paths, env=env)
    paths.append("/etc")
    env["C"] = "d"
    request = policy.request("true")
    assert [grant.path for grant in request.grants] == ["/srv"]
    assert request.environment.entries == (("A", "b"),)


def test_paths_may_be_path_objects():
    policy = Policy(read_write=[PurePosixPath("/srv/x")], cwd=PurePosixPath("/srv"))
    assert (policy.read_write, policy.cwd) == (("/srv/x",), "/srv")


def test_the_environments_values_are_not_shown():
    policy = Policy(env={"TOKEN": "s3cret"})
    assert "s3cret" not in repr(policy) + repr(Sandbox(policy))


def test_a_policy_can_be_pickled_and_copied_between_processes():
    policy = Policy(read_only=["/srv"], env={"A": "b"}, limits=Limits(pids=5))
    policy.request("true")
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_pointers_name_the_arguments():
    request = Policy(read_only=["/a"], denied=["/a/b", "/a/c"]).request("true")
    assert [grant.pointer for grant in request.grants] == ["read_only[0]", "denied[0]", "denied[1]"]
    assert request.pointers["cwd"] == "cwd"


def test_the_hash_follows_policy_and_command():
    one = Policy(read_only=["/srv"]).request("true").document_hash
    assert one == Policy(read_only=("/srv",)).request("true").document_hash
    assert one != Policy(read_only=["/srv"]).request("false").document_hash
    assert one != Policy(read_write=["/srv"]).request("true").document_hash
