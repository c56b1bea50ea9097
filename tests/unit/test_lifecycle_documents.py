"""Lifecycle documents as far as no sandbox is needed: ids, what is fixed, what a command's settings are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import SandboxRequest, SecretSource, StdinMode
from backends.errors import ConfigError, MxcError, PolicyRefused
from backends.virtual_machine import CommandKind
from mxc_ops import Policy
from mxc_ops.cli import lifecycle as answers
from mxc_ops.config.document import Document
from mxc_ops.config.loader import load
from mxc_ops.session.documents import command_request, policy_document, sandbox_id
from mxc_ops.session.errors import LIFECYCLE_CODES, lifecycle_code
from mxc_ops.session.ids import PREFIXES, is_id
from mxc_ops.session.lifecycle import validate

TAIL = "0123456789abcdef" * 2
ID = f"bwrap:{TAIL}"


def request(phase: str, version: str = "1.1.0-alpha", **fields: Any) -> Document:
    return load(json.dumps({"version": version, "phase": phase, **fields}).encode())


def command(
    provisioned: dict[str, Any] | None = None, containment: str = "bubblewrap", **fields: Any
) -> SandboxRequest:
    fields = {"sandboxId": ID, "process": {"commandLine": "ls"}, **fields}
    return command_request(request("exec", **fields), containment, provisioned or {})


def kept(**arguments: Any) -> dict[str, Any]:
    """What is kept of a policy once it is provisioned."""
    return Policy(**arguments).as_config("true")


# --- ids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["start", "stop", "deprovision"])
@pytest.mark.parametrize("prefix", sorted(set(PREFIXES.values())))
def test_a_whole_id_is_taken_as_it_is(phase: str, prefix: str) -> None:
    document = request(phase, sandboxId=f"{prefix}:{TAIL}")
    assert sandbox_id(document) == f"{prefix}:{TAIL}"
    assert validate(document) == ()


@pytest.mark.parametrize(
    ("identifier", "code"),
    [
        *((text, "malformed_id") for text in ("", "nocolon", TAIL, ":abc", f":{TAIL}", ":")),
        *((text, "malformed_id") for text in ("bwrap:", "bwrap:0123", f"bwrap:{TAIL}0", f"bwrap: {TAIL}")),
        *((text, "malformed_id") for text in (f"lxc:{TAIL.upper()}", f"vm:{TAIL}\n", f"lxc:lxc:{TAIL}")),
        ("lxc:../../../etc/passwd", "malformed_id"),
        *((text, "unsupported_containment") for text in ("zzz:1", "iso:abcd", "wsb:1a2b3c4d")),
        *((text, "unsupported_containment") for text in (f"WSLC:{TAIL}", f"BWRAP:{TAIL}", f" vm:{TAIL}")),
    ],
)
def test_any_other_id_is_refused_on_every_phase(identifier: str, code: str) -> None:
    for phase in ("start", "exec", "stop", "deprovision"):
        process: dict[str, Any] = {"process": {"commandLine": "true"}} if phase == "exec" else {}
        with pytest.raises(MxcError) as caught:
            validate(request(phase, sandboxId=identifier, **process))
        assert lifecycle_code(caught.value) == code
        assert caught.value.path == "/sandboxId"


def test_ids_are_refused_in_upstreams_words() -> None:
    with pytest.raises(MxcError, match=r'sandbox_id "nocolon" is missing the `<prefix>:\.\.\.` form'):
        sandbox_id(request("stop", sandboxId="nocolon"))
    with pytest.raises(MxcError, match='no state-aware backend registered for prefix "zzz"'):
        sandbox_id(request("stop", sandboxId="zzz:1"))


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
_HEX = st.text("0123456789abcdef", min_size=31, max_size=33)


@settings(max_examples=200)
@given(st.builds("{}:{}".format, st.sampled_from(["bwrap", "lxc", "vm", "iso", ""]), _HEX | _TEXT) | _TEXT)
def test_no_text_gets_further_than_an_id(text: str) -> None:
    try:
        taken = sandbox_id(request("stop", sandboxId=text))
    except MxcError as error:
        assert lifecycle_code(error) in ("malformed_id", "unsupported_containment")
    else:
        assert taken == text
        assert is_id(text)


# --- provisioning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.6.0-alpha", "0.8.0-alpha", "0.9.0-dev", "0.9.0-alpha", "1.0.0"])
def test_what_is_provisioned_is_the_policy_of_the_same_one_shot(version: str) -> None:
    fields: dict[str, Any] = {
        "containment": "bubblewrap",
        "containerId": "box",
        "filesystem": {"readonlyPaths": ["/a"], "readwritePaths": ["/b"], "deniedPaths": ["/a/c"]},
        "mxcOps": {"limits": {"pids": 9}, "env": {"TOKEN": {"file": "/t"}}, "optionalPaths": ["/b"]},
    }
    one_shot = {"version": version, "process": {"commandLine": "ls"}, **fields}
    document = request("provision", version, **fields)
    assert Policy.from_config(policy_document(document)) == Policy.from_config(one_shot)
    assert "process" not in document.body


def test_a_correlation_vector_of_the_clients_is_ignored() -> None:
    document = request("provision", "0.9.0-dev", containment="lxc", correlationVector="a.1")
    assert Policy.from_config(policy_document(document)) == Policy.from_config(
        {"containment": "lxc", "process": {"commandLine": "ls"}}
    )


@pytest.mark.parametrize(
    ("containment", "code"),
    [
        ("windows_sandbox", "unsupported_containment"),
        ("seatbelt", "unsupported_containment"),
        ("processcontainer", "unsupported_containment"),
    ],
)
def test_containments_of_other_systems_are_not_provisioned(containment: str, code: str) -> None:
    with pytest.raises(MxcError) as caught:
        validate(request("provision", "0.9.0-dev", containment=containment))
    assert lifecycle_code(caught.value) == code


# --- commands --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "pointers"),
    [
        ({"network": {}}, {"/network"}),
        ({"network": {"egress": {"default": "deny"}}}, {"/network"}),
        ({"runtimeConfig": {"networkProxy": "http://127.0.0.1:1"}}, {"/runtimeConfig"}),
        ({"mxcOps": {"limits": {"pids": 5}, "user": 1}}, {"/mxcOps/limits", "/mxcOps/user"}),
        ({"mxcOps": {"seccomp": "debug", "group": 1}}, {"/mxcOps/seccomp", "/mxcOps/group"}),
        ({"mxcOps": {"vm": {"cpus": 2}}}, {"/mxcOps/vm"}),
        ({"network": {}, "mxcOps": {"vm": {}, "tty": True}}, {"/network", "/mxcOps/vm"}),
    ],
)
def test_the_policy_is_fixed_since_it_was_provisioned(fields: dict[str, Any], pointers: set[str]) -> None:
    with pytest.raises(PolicyRefused) as caught:
        command(**fields)
    assert {problem.path for problem in caught.value.problems} == pointers
    assert all("provision" in problem.message for problem in caught.value.problems)


def test_null_is_nothing_where_it_stands_for_that() -> None:
    process = {"commandLine": "ls", "env": None, "cwd": None}
    document = request("exec", "0.8.0-alpha", sandboxId=ID, process=process, network=None, runtimeConfig=None)
    assert command_request(document, "bubblewrap", kept(env={"A": "1"})).environment.entries == (("A", "1"),)


def test_what_a_command_does_not_say_is_as_provisioned() -> None:
    own = kept(env={"A": "1"}, cwd="/usr", timeout_s=5, grace_s=1, timeout_signal="INT", tty=True)
    made = command(own)
    assert (made.environment.entries, made.cwd, made.tty) == ((("A", "1"),), "/usr", True)
    assert (made.timeout.after_ms, made.timeout.grace_ms, made.timeout.signal) == (5000, 1000, "INT")
    process = {"commandLine": "ls", "env": ["B=2"], "cwd": "/etc", "timeout": 70}
    other = command(own, process=process, mxcOps={"tty": False, "timeout": {"graceMs": 3}, "stdin": "none"})
    assert (other.environment.entries, other.cwd, other.tty) == ((("B", "2"),), "/etc", False)
    assert (other.timeout.after_ms, other.timeout.grace_ms, other.timeout.signal) == (70, 3, "TERM")
    assert other.stdin.mode is StdinMode.NONE
    assert command(own, process={"commandLine": "ls", "timeout": 0}).timeout.after_ms == 0


def test_secrets_stay_unless_a_command_has_that_variable_itself() -> None:
    own = kept(env={"TOKEN": SecretSource(file="/t"), "OTHER": SecretSource(file="/o")})
    made = command(
        own,
        process={"commandLine": "ls", "env": ["OTHER=plain"]},
        mxcOps={"env": {"MORE": {"file": "/m"}}},
    )
    assert made.environment.entries == (("OTHER", "plain"),)
    assert dict(made.environment.secrets) == {
        "TOKEN": SecretSource(file="/t"),
        "MORE": SecretSource(file="/m"),
    }


def test_a_secret_of_a_commands_replaces_the_sandboxs_variable() -> None:
    made = command(kept(env={"A": "1", "B": "2"}), mxcOps={"env": {"A": {"file": "/a"}}})
    assert made.environment.entries == (("B", "2"),)
    assert dict(made.environment.secrets) == {"A": SecretSource(file="/a")}


@pytest.mark.parametrize(
    ("containment", "vm", "fields", "kind"),
    [
        ("microvm", {}, {}, CommandKind.PYTHON),
        ("microvm", {"command": "shell", "image": "base"}, {}, CommandKind.SHELL),
        ("microvm", {"command": "shell", "image": "base"}, {"args": ["ls"]}, CommandKind.ARGS),
        ("vm", {}, {}, CommandKind.SHELL),
        ("vm", {"command": "args"}, {}, CommandKind.SHELL),
        ("vm", {"command": "args"}, {"args": ["ls"]}, CommandKind.ARGS),
    ],
)
def test_a_machine_takes_a_line_for_what_it_was_provisioned_to(
    containment: str, vm: dict[str, Any], fields: dict[str, Any], kind: CommandKind
) -> None:
    said: dict[str, Any] = {"mxcOps": fields, "process": {}} if fields else {}
    made = command({"mxcOps": {"vm": vm}}, containment, **said)
    assert made.vm is not None
    assert made.vm.command is kind


def test_pointers_are_those_of_the_document() -> None:
    with pytest.raises(ConfigError) as caught:
        command(process={"commandLine": "x" * 200_000})
    assert caught.value.path == "/process/commandLine"
    assert command().pointers["cwd"] == "/process/cwd"


def test_to_be_checked_only_a_machines_command_may_be_as_long_as_any() -> None:
    document = request("exec", sandboxId=f"vm:{TAIL}", process={"commandLine": "#" * 200_000})
    assert validate(document) == ()


# --- envelopes -------------------------------------------------------------------------------------


def test_a_refusal_is_one_line_with_one_of_the_twelve_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert answers.take(b'{"phase": "stop", "sandboxId": "a\\u001bb", "version": "1.0.0", "x": 1}') is None
    (line,) = capsys.readouterr().out.splitlines()
    error = json.loads(line)["error"]
    assert error["code"] in LIFECYCLE_CODES
    assert error["message"].startswith("/x: ")
    assert line.isascii()


def test_the_fix_is_the_remediation(capsys: pytest.CaptureFixture[str]) -> None:
    assert answers.validate(request("stop", sandboxId="bwrap:1")) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["remediation"] == "mxc-ops session list"
    assert "fix" not in error["message"]


@pytest.mark.parametrize("experimental", [True, False])
def test_experimental_containments_need_their_flag(
    experimental: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def anything(_document: Document) -> tuple[str, ...]:
        return ()

    monkeypatch.setattr("mxc_ops.session.lifecycle.validate", anything)
    code = answers.validate(request("provision", containment="microvm"), experimental=experimental)
    answer = json.loads(capsys.readouterr().out)
    assert (code, answer.get("error", {}).get("code")) == (
        (0, None) if experimental else (1, "backend_unavailable")
    )
