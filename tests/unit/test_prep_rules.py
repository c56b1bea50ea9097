"""Rules of preparation: there, at rest, and back, with their commands run in a throw-away folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from backends.linux.id_ranges import overlaps
from mxc_ops.prep.decision import Decision, Query
from mxc_ops.prep.rules import rule
from tests.unit.deciding import applied, at_rest

SWITCH = "kernel.apparmor_restrict_unprivileged_userns"
SWITCH_FILE = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
KEY = "0123abcd"
PROGRAM = f"#!/bin/sh\necho {KEY}\n"


@dataclass
class Host:
    """A folder that stands for a host: it answers queries, and runs commands.

    `given`: texts of files outside the folder.
    """

    folder: Path
    given: dict[str, str] = field(default_factory=dict[str, str])

    def answer(self, query: Query) -> Any:
        match query.fact:
            case "files.Texts":
                return {**self.given, **self._texts(query.arguments["paths"])}
            case "files.Existing":
                return [path for path in query.arguments["paths"] if os.path.lexists(path)]
            case "files.Status":
                return self._status(Path(query.arguments["path"]))
            case "files.Checksum":
                path = Path(query.arguments["path"])
                safe = path.exists() and not path.stat().st_mode & 0o022
                return hashlib.sha256(path.read_bytes()).hexdigest() if safe else ""
            case "helpers.Stored":
                return sorted(path.name for path in Path(query.arguments["store"]).glob("*"))
            case _:
                raise AssertionError(query.fact)

    def _texts(self, paths: Sequence[str]) -> dict[str, str]:
        ours = [Path(path) for path in paths if path.startswith(f"{self.folder}/")]
        return {str(path): path.read_text() for path in ours if path.exists()}

    def _status(self, path: Path) -> dict[str, str] | None:
        if not path.exists():
            return None
        return {
            "kind": "directory" if path.is_dir() else "file",
            "mode": f"{path.stat().st_mode & 0o7777:o}",
            "owner": "0",
        }

    def run(self, decision: Decision) -> None:
        environment = {
            **os.environ,
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "uploads": f"{self.folder}/up",
        }
        for command in decision.commands:
            subprocess.run(["sh", "-c", f"set -e; {command}"], check=True, env=environment)

    def tree(self) -> dict[str, tuple[int, str]]:
        places = sorted(path for path in self.folder.rglob("*") if "log" not in path.name)
        return {
            str(path): (path.stat().st_mode, path.read_text() if path.is_file() else "") for path in places
        }


@dataclass
class Attempt:
    """One operation on a host; `first` is what was decided about it there."""

    host: Host
    operation: str
    arguments: Mapping[str, Any]
    first: Decision = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.decide()

    def decide(self) -> Decision:
        kind = rule(self.operation)
        answers = [self.host.answer(query) for query in kind.queries(**self.arguments)]
        return kind.decide(*answers, **self.arguments)

    def reverse(self) -> Decision:
        kind = rule(self.operation)
        record = {"prior": self.first.prior, "made": self.first.made}
        ask = kind.reverse_queries
        queries = ask(**record, **self.arguments) if ask else kind.queries(**self.arguments)
        answers = [self.host.answer(query) for query in queries]
        return kind.reverse(*answers, **record, **self.arguments)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "store/older").mkdir(parents=True)
    (tmp_path / "up").mkdir()
    (tmp_path / "up/launcher").write_text(PROGRAM)
    (tmp_path / "bin").mkdir()
    parser = tmp_path / "bin/apparmor_parser"
    parser.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/log\n')
    parser.chmod(0o755)
    (tmp_path / "theirs").write_text('{"site": "a\'b $HOME"}')
    return Host(tmp_path, {SWITCH_FILE: "1\n", "/etc/passwd": "root:x:0:0::/root:/bin/sh\n"})


def arguments(operation: str, folder: Path, name: str) -> dict[str, Any]:
    """Arguments for an operation that makes `name` in the folder."""
    place = f"{folder}/{name}"
    return {
        "files.root_directory": {"path": place},
        "files.text": {"path": place, "content": "it's\n  $HOME\n"},
        "ids.recorded_range": {"path": place, "wanted": "1900000000:4096"},
        "apparmor.profile": {"switch": SWITCH, "path": place, "program": "/usr/lib/x/*/launcher"},
        "helpers.pushed": {
            "store": f"{folder}/store",
            "key": KEY,
            "program": "launcher",
            "source": "/of/the/controller",
            "sha256": hashlib.sha256(PROGRAM.encode()).hexdigest(),
        },
    }[operation]


@pytest.mark.parametrize("name", ["new", "a b/it's/new", "theirs"])
@pytest.mark.parametrize("operation", ["files.text", "ids.recorded_range", "apparmor.profile"])
def test_a_file_is_made_once_and_the_way_back_leads_to_what_was_there(
    host: Host, operation: str, name: str
) -> None:
    before = host.tree()
    attempt = Attempt(host, operation, arguments(operation, host.folder, name))
    host.run(attempt.first)
    assert host.tree() != before
    assert at_rest(attempt.decide())
    host.run(attempt.reverse())
    assert host.tree() == before
    assert at_rest(attempt.reverse())


@pytest.mark.parametrize("operation", ["files.root_directory", "helpers.pushed"])
def test_a_directory_or_program_is_made_once_and_goes_again(host: Host, operation: str) -> None:
    before = host.tree()
    attempt = Attempt(host, operation, arguments(operation, host.folder, "a/b/c"))
    host.run(attempt.first)
    assert at_rest(attempt.decide())
    host.run(attempt.reverse())
    assert host.tree() == before
    assert at_rest(attempt.reverse())


@pytest.mark.parametrize("name", ["new", "theirs"])
@pytest.mark.parametrize("operation", ["files.text", "ids.recorded_range", "apparmor.profile"])
def test_a_file_that_somebody_has_edited_since_is_taken_back_on_request_only(
    host: Host, operation: str, name: str
) -> None:
    before = host.tree()
    attempt = Attempt(host, operation, arguments(operation, host.folder, name))
    host.run(attempt.first)
    (host.folder / name).write_text("edited")
    back = attempt.reverse()
    assert f"{host.folder}/{name} is no longer what we made it" in back.refusal
    host.run(back)
    assert host.tree() == before


def test_what_others_put_into_our_directories_stays(host: Host) -> None:
    attempt = Attempt(host, "files.text", arguments("files.text", host.folder, "a/b/new"))
    host.run(attempt.first)
    (host.folder / "a/others").write_text("x")
    host.run(attempt.reverse())
    assert [path.name for path in (host.folder / "a").iterdir()] == ["others"]


def test_a_directory_in_which_others_keep_something_cannot_be_taken_back(host: Host) -> None:
    attempt = Attempt(host, "files.root_directory", arguments("files.root_directory", host.folder, "d"))
    host.run(attempt.first)
    (host.folder / "d/others").write_text("x")
    with pytest.raises(subprocess.CalledProcessError):
        host.run(attempt.reverse())
    assert (host.folder / "d/others").exists()


def test_a_pushed_program_with_another_sum_never_takes_its_place(host: Host) -> None:
    attempt = Attempt(host, "helpers.pushed", arguments("helpers.pushed", host.folder, ""))
    assert [(upload.source, upload.name) for upload in attempt.first.uploads] == [
        ("/of/the/controller", "launcher")
    ]
    (host.folder / "up/launcher").write_text(PROGRAM + "# another\n")
    before = host.tree()
    with pytest.raises(subprocess.CalledProcessError):
        host.run(attempt.first)
    assert host.tree() == before


@pytest.mark.parametrize("earlier", ["#!/bin/sh\necho theirs\n", None])
def test_a_program_that_was_there_before_comes_back_however_often_that_is_tried(
    host: Host, earlier: str | None
) -> None:
    """Also when it was replaced twice, and when a way back was interrupted after its last step."""
    if earlier is not None:
        (host.folder / f"store/{KEY}").mkdir()
        (host.folder / f"store/{KEY}/launcher").write_text(earlier)
    before = host.tree()
    attempt = Attempt(host, "helpers.pushed", arguments("helpers.pushed", host.folder, ""))
    host.run(attempt.first)
    (host.folder / f"store/{KEY}/launcher").write_text("damaged")
    host.run(attempt.decide())
    assert at_rest(attempt.decide())
    back = attempt.reverse()
    for _ in range(2):
        host.run(back)
        assert host.tree() == before


@pytest.mark.parametrize("mode", [0o755, 0o666])
def test_a_program_that_somebody_has_put_in_the_place_of_ours_goes_on_request_only(
    host: Host, mode: int
) -> None:
    attempt = Attempt(host, "helpers.pushed", arguments("helpers.pushed", host.folder, ""))
    host.run(attempt.first)
    recorded = {**attempt.first.made, "sha256": [hashlib.sha256(PROGRAM.encode()).hexdigest()]}
    attempt.first = replace(attempt.first, made=recorded)
    assert not attempt.reverse().refusal
    program = host.folder / f"store/{KEY}/launcher"
    program.write_text("theirs")
    program.chmod(mode)
    back = attempt.reverse()
    assert back.refusal == f"{program} is no longer what we made it"
    assert back.commands
    program.unlink()
    assert not attempt.reverse().refusal


def test_a_program_with_another_key_never_takes_its_place(host: Host) -> None:
    program = "#!/bin/sh\necho another\n"
    (host.folder / "up/launcher").write_text(program)
    wanted = arguments("helpers.pushed", host.folder, "")
    attempt = Attempt(
        host, "helpers.pushed", {**wanted, "sha256": hashlib.sha256(program.encode()).hexdigest()}
    )
    before = host.tree()
    with pytest.raises(subprocess.CalledProcessError):
        host.run(attempt.first)
    assert host.tree() == before


def test_a_profile_is_loaded_and_unloaded_again(host: Host) -> None:
    attempt = Attempt(host, "apparmor.profile", arguments("apparmor.profile", host.folder, "new"))
    host.run(attempt.first)
    host.run(attempt.reverse())
    assert (host.folder / "log").read_text() == f"-r {host.folder}/new\n-R {host.folder}/new\n"


@pytest.mark.parametrize("manager", ["systemd", "openrc"])
def test_that_no_service_is_started_with_the_host_is_known_beforehand_too(manager: str) -> None:
    """A host may have all of that in /usr: an empty list would not tell that it is whole."""
    named = {"service": "libvirtd", "manager": manager}
    elsewhere = rule("services.running").snapshot(**named).replace("find /etc", "find /no/such")
    listed = subprocess.run(["sh", "-ec", elsewhere], capture_output=True, text=True, check=True).stdout
    assert listed.splitlines() == [{"systemd": "/etc/systemd/system", "openrc": "/etc/runlevels"}[manager]]


@pytest.mark.parametrize("seen", [{}, {SWITCH_FILE: "0\n"}])
def test_without_the_restriction_no_profile_is_written(host: Host, seen: dict[str, str]) -> None:
    host.given = seen
    assert at_rest(Attempt(host, "apparmor.profile", arguments("apparmor.profile", host.folder, "new")).first)


@pytest.mark.parametrize("text", ["{", "[]", '{"uidRange": {"first": "x", "count": 1}}', '{"uidRange": {}}'])
def test_a_host_file_that_cannot_be_understood_is_refused(host: Host, text: str) -> None:
    (host.folder / "host.json").write_text(text)
    decision = Attempt(
        host, "ids.recorded_range", arguments("ids.recorded_range", host.folder, "host.json")
    ).first
    assert decision.refusal and decision.fix and not decision.commands


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/etc/passwd", "eve:x:1900000001:100::/:/bin/sh"),
        ("/etc/group", "eves:x:1900004095:"),
        ("/etc/subuid", "eve:1899990000:65536"),
        ("/etc/subgid", "eve:1900004000:65536"),
    ],
)
def test_ids_that_somebody_has_are_refused_by_name(host: Host, path: str, line: str) -> None:
    host.given = {path: line}
    decision = Attempt(host, "ids.recorded_range", arguments("ids.recorded_range", host.folder, "new")).first
    assert decision.refusal.startswith(f"{path} gives eve")
    assert not decision.commands


def test_neighbours_of_the_range_do_not_overlap() -> None:
    texts = {"/etc/subuid": "a:1899934464:65536\nb:1900004096:65536", "/etc/passwd": "c:x:1900004096:1::/:"}
    assert overlaps(texts, 1900000000, 4096) == []


def test_lines_that_are_no_entries_are_passed_over() -> None:
    assert overlaps({"/etc/passwd": "+::::::\n\n# x", "/etc/subuid": "a:b:c\na:1"}, 1, 100) == []


def subordinate(texts: dict[str, str]) -> Decision:
    return rule("ids.subordinate").decide(texts, user="mxc", count=65536)


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"/etc/subuid": "eve:100000:65536\n", "/etc/subgid": "eve:100000:65536\n"},
        {"/etc/subuid": "eve:100000:65536", "/etc/subgid": ""},
        {"/etc/subuid": "mxc:300000:65536", "/etc/subgid": "eve:165536:65536\n"},
    ],
)
def test_subordinate_ids_are_free_ones_and_go_again_by_the_line(texts: dict[str, str]) -> None:
    decision = subordinate(texts)
    after = applied(texts, decision)
    assert at_rest(subordinate(after))
    (line,) = decision.made["lines"]
    assert overlaps(texts, int(line.split(":")[1]), 65536) == []
    later = {path: text.rstrip("\n") + "\nlater:1:1\n" for path, text in after.items()}
    record = {"prior": decision.prior, "made": decision.made}
    back = rule("ids.subordinate").reverse(later, **record, user="mxc", count=65536)
    assert not back.refusal
    assert applied(later, back) == {path: text.replace(f"{line}\n", "") for path, text in later.items()}


@pytest.mark.parametrize(
    "seen",
    [
        {"kind": "directory", "mode": "777", "owner": "0"},
        {"kind": "directory", "mode": "755", "owner": "1000"},
        {"kind": "symbolic link", "mode": "777", "owner": "0"},
        {"kind": "file", "mode": "644", "owner": "0"},
    ],
)
def test_a_place_that_others_can_change_is_refused(seen: dict[str, str]) -> None:
    decision = rule("files.root_directory").decide(seen, [], path="/usr/local/lib/x")
    assert decision.refusal and not decision.commands
    assert "rm -r /usr/local/lib/x" in decision.fix


@pytest.mark.parametrize("name", ["kernel", "nothing.at_all", "kernel.nothing"])
def test_an_operation_that_no_area_has_is_told_by_name(name: str) -> None:
    with pytest.raises(KeyError):
        rule(name)


def test_others_lines_stay_as_they_are_whatever_bytes_they_hold(tmp_path: Path) -> None:
    """The file is edited where it is: read as text and written back, it lost what is no UTF-8, and links."""
    real, link = tmp_path / "real", tmp_path / "subuid"
    before = b"m\xfcller:100000:65536"  # without a last newline
    real.write_bytes(before)
    link.symlink_to(real)
    kind, named = rule("ids.subordinate"), {"user": "mxc", "count": 65536}
    seen = {"/etc/subuid": "mller:100000:65536", "/etc/subgid": "mxc:165536:65536\n"}
    there = kind.decide(seen, **named)

    def run(commands: tuple[str, ...]) -> None:
        for command in commands:
            script = f"set -e; {command.replace('/etc/subuid', str(link))}"
            subprocess.run(["sh", "-c", script], check=True)

    run(there.commands)
    real.write_bytes(real.read_bytes() + b"later:300000:65536\n")
    assert real.read_bytes() == before + f"\n{there.made['lines'][0]}\nlater:300000:65536\n".encode()
    after = {**seen, "/etc/subuid": real.read_bytes().decode(errors="ignore")}
    run(kind.reverse(after, prior=there.prior, made=there.made, **named).commands[:1])
    assert real.read_bytes() == before + b"\nlater:300000:65536\n"
    assert link.is_symlink()
