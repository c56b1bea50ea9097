"""What is kept of a sandbox: read back exactly, or told to be unreadable; states, phases and codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import (
    BackendUnavailable,
    ConfigError,
    CopyBackFailed,
    LaunchFailed,
    LifecycleError,
    MxcError,
    PolicyRefused,
    Problem,
    UnsupportedContainment,
    UsageError,
)
from backends.frozen import replace
from mxc_ops.session import errors
from mxc_ops.session.ids import PREFIXES, is_id, matching, new_id, parse
from mxc_ops.session.record import (
    Lease,
    Record,
    State,
    Unreadable,
    as_text,
    expired,
    moment,
    new_record,
    read_record,
    seconds,
)
from mxc_ops.session.states import Shown, admit, derive

DOCUMENT = {"version": "1.1.0-alpha", "process": {"commandLine": "true"}, "odd": "\ud800 \u2028 é"}
RECORD = replace(
    new_record("lxc", DOCUMENT, "sha256:00", name="web", lease=Lease(60, 3600)),
    boot_id="b" * 36,
    supervisor_pid=7,
    supervisor_start=8,
    starts=2,
    origin=new_id("lxc"),
    run_folder="/run/x",
    backend_data={"cgroup": "a"},
)


def body(**changes: Any) -> dict[str, Any]:
    return {**json.loads(as_text(RECORD)), **changes}


def read(value: object, tail: str = RECORD.tail) -> Record | Unreadable:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_record(text, tail, "/place")


def reason(value: object) -> tuple[str, str]:
    found = read(value)
    assert isinstance(found, Unreadable), found
    assert (found.tail, found.path) == (RECORD.tail, "/place")
    return found.reason, found.why


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_counts = st.integers(0, 2**63 - 1)
_times = st.floats(0, 4e9).map(moment)


@st.composite
def records(draw: st.DrawFn) -> Record:
    containment = draw(st.sampled_from(sorted(PREFIXES)))
    return Record(
        id=new_id(containment),
        containment=containment,
        state=draw(st.sampled_from(State)),
        created=draw(_times),
        last_used=draw(_times),
        boot_id=draw(st.text(st.characters(exclude_characters="\0"), max_size=40)),
        document_hash=draw(st.text(st.characters(exclude_characters="\0"), max_size=80)),
        document=draw(st.dictionaries(st.text(max_size=5), _json, max_size=3)),
        backend_data=draw(st.dictionaries(st.text(max_size=5), _json, max_size=3)),
        name=draw(st.just("") | st.from_regex(r"[a-z0-9][a-z0-9._-]{0,30}", fullmatch=True)),
        lease=draw(st.none() | st.builds(Lease, _counts, _counts)),
        supervisor_pid=draw(_counts),
        supervisor_start=draw(_counts),
        starts=draw(_counts),
        origin=draw(st.just("") | st.sampled_from(sorted(PREFIXES)).map(new_id)),
        run_folder=draw(st.just("") | st.just("/run/user/1000/mxc-ops/sessions/x")),
    )


@given(records())
def test_what_was_written_is_read_back(record: Record) -> None:
    assert read_record(as_text(record), record.tail, "") == record


def test_a_record_is_one_line_of_ascii_with_a_version_and_camel_case_names() -> None:
    text = as_text(RECORD)
    assert text.isascii()
    assert text.endswith(b"}\n")
    assert text.count(b"\n") == 1
    assert list(body()) == [
        *("schemaVersion", "id", "name", "containment", "state", "created", "lastUsed", "bootId"),
        *("documentHash", "document", "lease", "supervisorPid", "supervisorStart", "starts", "origin"),
        *("runFolder", "backendData"),
    ]
    assert body()["lease"] == {"idleSeconds": 60, "absoluteSeconds": 3600}


@pytest.mark.parametrize("rest", [{}, {"surprise": 1}, {"state": "dreaming"}, {"id": None}])
def test_a_newer_record_is_newer_whatever_else_is_in_it(rest: dict[str, Any]) -> None:
    why = "has schemaVersion 2, and this mxc-ops knows 1"
    assert reason(body(schemaVersion=2, **rest)) == ("newer", why)


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0, None])
def test_a_record_without_a_version_is_corrupt(version: object) -> None:
    assert reason(body(schemaVersion=version)) == ("corrupt", "names no schemaVersion")


@pytest.mark.parametrize("name", body())
def test_every_field_is_needed(name: str) -> None:
    less = body()
    del less[name]
    assert reason(less)[0] == "corrupt"


_NEVER_WRITTEN: dict[str, list[Any]] = {
    "id": ["", "lxc:", RECORD.tail, f"wsb:{RECORD.tail}", f"bwrap:{RECORD.tail}", 1, RECORD.id.upper()],
    "name": ["-x", "X", "a" * 64, "a/b", "..", RECORD.tail, None, "a\n"],
    "containment": ["seatbelt", "", "LXC", None, []],
    "state": ["stale", "", None, [], {}],
    "created": [
        *("", "yesterday", 1, "2026-01-01T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00.000+00:00"),
        "2026-13-01T00:00:00.000Z",
    ],
    "lastUsed": ["2026-01-01 00:00:00.000Z"],
    "bootId": [None, "a\0", "x" * 5000],
    "documentHash": [1],
    "document": [None, [], "{}"],
    "lease": [
        *({}, [], 1, {"idleSeconds": 1}, {"idleSeconds": 1, "absoluteSeconds": -1}),
        *({"idleSeconds": True, "absoluteSeconds": 1}, {"idleSeconds": 1, "absoluteSeconds": 1, "more": 1}),
    ],
    "starts": [-1, 1.0, "1", True, None, 2**63],
    "supervisorPid": [-1],
    "supervisorStart": [None],
    "origin": ["web", None, "lxc:12"],
    "runFolder": ["run", None, "./x"],
    "backendData": [None],
    "surprise": [1],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in _NEVER_WRITTEN.items() for value in values]
)
def test_what_we_never_write_is_corrupt(field: str, value: object) -> None:
    assert reason(body(**{field: value}))[0] == "corrupt"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 500,
        b"[]",
        b"null",
        b"\xff{}",
        json.dumps(body()).encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        as_text(RECORD) + as_text(RECORD),
        as_text(RECORD).replace(b'"starts":2', b'"starts":2,"starts":3'),
        as_text(RECORD).replace(b'{"commandLine":"true"}', b'{"commandLine":"true","commandLine":"false"}'),
        as_text(RECORD).replace(b'"starts":2', b'"starts":NaN'),
        as_text(RECORD).replace(b'"starts":2', b'"starts":' + b"9" * 10_000),
        b" " * ((16 << 20) + 1),
    ],
)
def test_what_is_no_record_is_corrupt(text: bytes) -> None:
    assert reason(text)[0] == "corrupt"


@given(st.integers(0, len(as_text(RECORD)) - 3))
def test_a_record_that_was_cut_off_is_corrupt(length: int) -> None:
    assert reason(as_text(RECORD)[:length])[0] == "corrupt"


@given(st.integers(0, len(as_text(RECORD)) - 1), st.integers(0, 255))
def test_a_changed_byte_never_raises(place: int, byte: int) -> None:
    text = bytearray(as_text(RECORD))
    text[place] = byte
    assert isinstance(read(bytes(text)), Record | Unreadable)


def test_a_record_in_the_folder_of_another_sandbox_is_corrupt() -> None:
    found = read(body(), "0" * 32)
    assert isinstance(found, Unreadable)
    assert (found.reason, found.why) == ("corrupt", "belongs to another sandbox")


def test_why_a_record_is_corrupt_is_safe_to_print() -> None:
    assert reason(body(**{"\x1b[31m\n": 1})) == ("corrupt", r"cannot be read: unknown field '\\x1b[31m\\n'")


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "dreaming"},
        {"starts": -1},
        {"document": {"x": float("nan")}},
        {"name": "X"},
        {"run_folder": "x"},
        {"containment": "vm"},
        {"document": {"x": "y" * (17 << 20)}},
    ],
)
def test_nothing_is_written_that_could_not_be_read(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        as_text(replace(RECORD, **changes))


def test_a_new_record_has_an_id_of_its_containment_and_a_time() -> None:
    for containment, prefix in PREFIXES.items():
        record = new_record(containment, {}, "")
        assert is_id(record.id)
        assert record.id.startswith(f"{prefix}:")
        assert (record.state, record.name, record.lease) == (State.PROVISIONED, "", None)
        assert record.created == record.last_used
    assert new_id("vm") != new_id("vm")


@pytest.mark.parametrize("name", ["-a", "A", "a b", "a/b", "a\n", ".", "..", ".a", "a" * 64, "0" * 32, "é"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        new_record("lxc", {}, "", name=name)
    assert caught.value.problems[0].code == "name_malformed"


# --- times and leases -------------------------------------------------------------------------------


@given(st.floats(0, 4e9))
def test_a_moment_is_fixed_in_form_and_sorts_as_time_does(at_s: float) -> None:
    text = moment(at_s)
    assert len(text) == 24
    assert text.endswith("Z")
    assert at_s - 0.0011 < seconds(text) <= at_s + 1e-6
    assert moment(at_s + 1) > text


def test_a_lease_ends_idle_or_in_any_case() -> None:
    made, used = seconds("2026-01-01T00:00:00.000Z"), "2026-01-01T00:10:00.000Z"
    record = replace(RECORD, created="2026-01-01T00:00:00.000Z", last_used="2026-01-01T00:00:00.000Z")

    def which(lease: Lease | None, minutes: float) -> str:
        return expired(replace(record, lease=lease), used, made + 60 * minutes)

    assert which(None, 10**6) == ""
    assert which(Lease(), 10**6) == ""
    assert [which(Lease(300, 0), minutes) for minutes in (1, 15, 15.1)] == ["", "", "idle"]
    assert [which(Lease(0, 3600), minutes) for minutes in (1, 60, 60.1)] == ["", "", "absolute"]
    assert which(Lease(1, 1), 100) == "absolute"


# --- ids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bwrap:ab", ("bwrap", "ab", "")),
        (f"vm:{'0' * 32}", ("vm", "0" * 32, "")),
        ("0" * 32, ("", "0" * 32, "")),
        ("abc", ("", "abc", "abc")),
        ("web", ("", "", "web")),
        ("a" * 33, ("", "", "a" * 33)),
    ],
)
def test_what_is_written_for_a_sandbox(text: str, expected: tuple[str, str, str]) -> None:
    written = parse(text)
    assert (written.prefix, written.digits, written.name) == expected
    assert written.whole == (len(written.digits) == 32)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "bwrap:", ":ab", "wsb:0123", "bwrap:AB", "bwrap:xy", f"vm:{'0' * 33}", "BWRAP:ab"),
        *("vm:a:b", "a b", "../x", "/etc", "-x", "vm:ab\n", "ab\0", "x" * 64, "é"),
    ],
)
def test_what_can_be_no_sandbox_is_a_malformed_id(text: str) -> None:
    with pytest.raises(LifecycleError) as caught:
        parse(text)
    assert caught.value.code == "malformed_id"
    assert str(caught.value).isprintable()


@given(st.text(max_size=40))
def test_anything_else_is_malformed_or_understood(text: str) -> None:
    try:
        written = parse(text)
    except LifecycleError as error:
        assert error.code == "malformed_id"
    else:
        assert text in (f"{written.prefix}:{written.digits}", written.digits, written.name)


@given(st.lists(st.text("ab", min_size=32, max_size=32), unique=True), st.text("ab", min_size=1, max_size=32))
def test_a_shortened_id_matches_what_it_begins(tails: list[str], digits: str) -> None:
    found = matching(parse(f"vm:{digits}"), tails)
    assert found == [tail for tail in tails if tail[: len(digits)] == digits]


# --- states and phases (lifecycle.md §1) ------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "same_boot", "alive", "moving", "expected"),
    [
        *((State.PROVISIONED, boot, alive, False, "provisioned") for boot in (0, 1) for alive in (0, 1)),
        *((state, True, True, True, state.value) for state in State),
        *(
            (state, boot, True, False, "running")
            for state in State.__members__.values()
            for boot in (0, 1)
            if state is not State.PROVISIONED
        ),
        *((state, True, False, False, "stale") for state in (State.STARTING, State.RUNNING, State.STOPPING)),
        *((state, True, False, True, state.value) for state in State),
        *((state, False, False, moving, "provisioned") for state in State for moving in (False, True)),
    ],
)
def test_the_state_is_what_is_and_not_what_was_written(
    state: State, same_boot: bool, alive: bool, moving: bool, expected: str
) -> None:
    record = replace(RECORD, state=state, boot_id="this" if same_boot else "other")
    assert derive(record, "this", alive=bool(alive), moving=moving).value == expected


_PHASES = {
    "start": {Shown.STARTING: "already_started", Shown.RUNNING: "already_started",
              Shown.STOPPING: "already_started"},
    "exec": {Shown.PROVISIONED: "not_started", Shown.STARTING: "not_started", Shown.STOPPING: "not_started",
             Shown.STALE: "stale_id"},
    "stop": {Shown.PROVISIONED: "already_stopped"},
    "deprovision": {},
}  # fmt: skip


@pytest.mark.parametrize("phase", _PHASES)
@pytest.mark.parametrize("shown", Shown)
def test_a_phase_is_admitted_or_answered_by_its_code(phase: str, shown: Shown) -> None:
    code = _PHASES[phase].get(shown, "")
    if not code:
        admit(phase, shown, RECORD.id)
        return
    with pytest.raises(LifecycleError) as caught:
        admit(phase, shown, RECORD.id)
    assert caught.value.code == code
    verb = "stop" if code == "already_started" else "start"
    assert caught.value.fix == f"mxc-ops session {verb} {RECORD.id}"


# --- codes (lifecycle.md §5) ------------------------------------------------------------------------

TWELVE = {
    *("malformed_request", "unsupported_containment", "unsupported_phase", "backend_unavailable"),
    *("malformed_id", "stale_id", "not_provisioned", "not_started", "already_started", "already_stopped"),
    *("policy_validation", "backend_error"),
}


def test_there_are_exactly_the_twelve_codes() -> None:
    assert set(errors.LIFECYCLE_CODES) == TWELVE
    assert len(errors.LIFECYCLE_CODES) == 12


_MADE: dict[str, Callable[[], MxcError]] = {
    "unsupported_phase": lambda: errors.unsupported_phase("provision", "hyperlight"),
    "malformed_id": lambda: errors.malformed_id("\x1b[2J", "is no id"),
    "stale_id": lambda: errors.stale_id(RECORD.id),
    "not_provisioned": lambda: errors.not_provisioned("web"),
    "not_started": lambda: errors.not_started(RECORD.id),
    "already_started": lambda: errors.already_started(RECORD.id),
    "already_stopped": lambda: errors.already_stopped(RECORD.id),
}


@pytest.mark.parametrize("code", _MADE)
def test_each_lifecycle_code_has_a_constructor_with_a_fix(code: str) -> None:
    error = _MADE[code]()
    assert isinstance(error, LifecycleError)
    assert (error.code, errors.lifecycle_code(error), error.as_dict()["code"]) == (code, code, code)
    assert error.fix.startswith("mxc-ops ")
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("error", "code", "problem"),
    [
        (errors.ambiguous("a", [RECORD.id] * 9), "malformed_id", "ambiguous_id"),
        (errors.name_malformed("X"), "malformed_request", "name_malformed"),
        (errors.name_taken("web", RECORD.id), "policy_validation", "name_taken"),
        (errors.busy(RECORD.id, 60), "backend_error", "busy"),
        (errors.unreadable("/x", "newer", "is newer"), "backend_error", "record_newer"),
        (errors.unreadable("/x", "corrupt", "is corrupt"), "backend_error", "record_corrupt"),
        (errors.unreadable("/x", "foreign", "is foreign"), "backend_error", "record_foreign"),
        (errors.store_not_ours("/x", "is not", "ls"), "backend_unavailable", "store_not_ours"),
        (errors.store_failed("/x", OSError(28, "No space left on device")), "backend_error", "store_failed"),
        (errors.leftover("/x", OSError(1, "Operation not permitted")), "backend_error", "leftover"),
    ],
)
def test_finer_distinctions_are_the_problems_own(error: MxcError, code: str, problem: str) -> None:
    assert (errors.lifecycle_code(error), error.problems[0].code) == (code, problem)
    assert error.fix or error.problems[0].expected


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ConfigError, "malformed_request"),
        (UsageError, "malformed_request"),
        (UnsupportedContainment, "unsupported_containment"),
        (PolicyRefused, "policy_validation"),
        (BackendUnavailable, "backend_unavailable"),
        (LaunchFailed, "backend_error"),
        (CopyBackFailed, "backend_error"),
    ],
)
def test_every_error_is_answered_with_one_of_the_twelve(kind: type[MxcError], code: str) -> None:
    assert errors.lifecycle_code(kind(Problem("x", "", "x"))) == code


def test_no_other_code_can_be_made() -> None:
    with pytest.raises(ValueError, match="no lifecycle code"):
        LifecycleError("backend_error", Problem("x", "", "x"))


def test_the_store_imports_nothing_heavy() -> None:
    names = ("store", "transition", "sweep", "places", "record", "errors")
    source = (
        f"import sys; {'; '.join(f'import mxc_ops.session.{name}' for name in names)}; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    heavy = {
        "asyncio",
        "pydantic",
        "pydantic_core",
        "subprocess",
        "shutil",
        "socket",
        "pathlib",
        "dataclasses",
    }
    assert not heavy & set(done.stdout.split())
