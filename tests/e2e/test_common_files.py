"""The file system policy, the same in every containment: one run sees it all, tests look at what it saw."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from mxc_ops import Outcome, Policy, PolicyRefused, Result, run
from tests.e2e.containments import Containment

SECRET = "the-secret-4c1f"
ODD_NAME = "ö d\nd'\"\\ $x"


@dataclass(frozen=True)
class Tree:
    """What the tests share: host paths, and what the one run said and left behind."""

    top: Path
    result: Result
    said: Mapping[str, str]
    contained: Containment


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _lay_out(top: Path) -> None:
    top.chmod(0o755)
    _write(top / "hidden", SECRET)
    _write(top / "ro" / "file", "content")
    _write(top / "ro" / "below" / ODD_NAME / "deep", "deep")
    _write(top / "ro" / "secret", SECRET)
    _write(top / "ro" / "closed" / "inner", SECRET)
    _write(top / "ro" / "closed" / "open" / "again", "again")
    (top / "ro" / "to-file").symlink_to("file")
    (top / "ro" / "to-outside").symlink_to("../hidden")
    (top / "ro" / "to-absolute").symlink_to(top / "hidden")
    (top / "ro" / "to-nowhere").symlink_to("nowhere")
    _write(top / "ro" / "program", "#!/bin/sh\necho it runs $1\n").chmod(0o755)
    _write(top / "ro" / "rw" / "changed", "old")
    _write(top / "rw" / "changed", "old")
    _write(top / "rw" / "removed", "old")
    _write(top / "rw" / "kept", "kept")
    _write(top / "rw" / "full" / "a", "a")
    _write(top / "rw" / "ro" / "file", "content")
    _write(top / "rw" / "secret", SECRET)
    (top / "rw" / "link").symlink_to("../hidden")
    _write(top / "single", "single")
    _write(top / "written", "old")
    _write(top / ODD_NAME / "file", "odd")
    (top / "alias").symlink_to("ro")


LOOKS: Sequence[tuple[str, str]] = (
    ("read", "cat ro/file"),
    ("names", "ls ro"),
    ("deep", "cat ro/below/*/deep; ls ro/below | wc -c"),
    (
        "write",
        "echo x > ro/file; echo x > ro/new; rm ro/file; chmod 600 ro/file; mkdir ro/d; ln ro/file ro/l",
    ),
    ("still", "cat ro/file"),
    ("secret", "cat ro/secret; cat ro/closed/inner; ls ro/closed"),
    ("passage", "cat ro/closed/open/again"),
    ("symlink", "cat ro/to-file; readlink ro/to-outside"),
    ("outside", "cat ro/to-outside ro/to-absolute ro/to-nowhere hidden rw/link ro/../hidden"),
    ("execute", "ro/program here"),
    ("siblings", "ls"),
    ("nested rw", "echo new > ro/rw/changed; echo made > ro/rw/made; cat ro/rw/changed"),
    ("nested ro", "cat rw/ro/file; echo x > rw/ro/file; rm -r rw/ro"),
    ("rw secret", "cat rw/secret; echo x > rw/secret; rm -f rw/secret; mv rw/secret rw/moved"),
    (
        "changes",
        "echo new > rw/changed; rm rw/removed; mkdir -p rw/made/deep; echo made > rw/made/deep/file;"
        " chmod 750 rw/made; ln -s ../kept rw/made/link; echo run > rw/run; chmod 755 rw/run; rm -r rw/full;"
        " ln -sfn /etc/passwd rw/link; mv rw/kept rw/renamed; touch -d 2001-02-03T04:05:06Z rw/run;"
        " head -c 3000000 /dev/zero > rw/large; printf '' > rw/empty; : > \"rw/n Ω\"",
    ),
    ("single", "cat single; echo x > single"),
    ("written", "cat written; echo new > written"),
    ("odd", "cat ?*d*/file"),
    ("alias", "cat alias/file; readlink alias"),
    ("optional", "ls missing"),
    ("owner", "stat -c %u:%g ro/file rw/changed single; stat -c %a ro/program ro/file"),
    ("elsewhere", "for d in / /etc /usr /var /run /root /home; do echo x > $d/new; done"),
)


def _policy(contained: Containment, top: Path) -> Policy:
    return contained.policy(
        cwd=top,
        read_only=[
            top / "ro",
            top / "rw" / "ro",
            top / "single",
            top / ODD_NAME,
            top / "alias",
            top / "missing",
            top / "ro" / "closed" / "open",
        ],
        read_write=[top / "rw", top / "ro" / "rw", top / "written"],
        denied=[top / "ro" / "secret", top / "ro" / "closed", top / "rw" / "secret"],
        optional=[top / "missing"],
    )


@pytest.fixture(scope="module")
def tree(contained: Containment, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    top = tmp_path_factory.mktemp("tree") / "t"
    top.parent.chmod(0o755)
    top.mkdir()
    _lay_out(top)
    script = "".join(f"echo '<<{name}>>'\n( {look}\n) 2>/dev/null\n" for name, look in LOOKS)
    result = run(_policy(contained, top), f"{script}\nexit 3")
    parts = result.stdout.decode().split("<<")[1:]
    said = {name: text.removeprefix("\n") for name, _, text in (part.partition(">>") for part in parts)}
    return Tree(top, result, said, contained)


def test_the_run_ended_as_it_said(tree: Tree) -> None:
    assert (tree.result.exit_code, tree.result.outcome) == (3, Outcome.EXITED)
    assert list(tree.said) == [name for name, _ in LOOKS]
    assert tree.result.conflicts == ()


def test_a_read_only_grant_can_be_read_and_nothing_else(tree: Tree) -> None:
    assert tree.said["read"] == tree.said["still"] == "content"
    assert tree.said["write"] == ""
    assert (tree.top / "ro" / "file").read_text() == "content"
    assert {path.name for path in (tree.top / "ro").iterdir()} == {
        *("file", "below", "secret", "closed", "to-file", "to-outside", "to-absolute", "to-nowhere"),
        *("program", "rw"),
    }


def test_what_is_denied_is_absent_or_unreadable(tree: Tree) -> None:
    assert SECRET not in tree.result.stdout.decode()
    names = set(tree.said["names"].split())
    assert names >= {"file", "below", "program", "rw", "closed"}
    assert ("secret" in names) is tree.contained.denied_are_there
    assert tree.said["secret"] == ""
    assert tree.said["passage"] == "again", "a grant below what is denied"
    assert tree.said["rw secret"] == ""
    assert (tree.top / "rw" / "secret").read_text() == SECRET
    assert (tree.top / "ro" / "closed" / "inner").read_text() == SECRET


def test_symlinks_are_links_and_lead_nowhere_outside(tree: Tree) -> None:
    assert tree.said["symlink"] == "content../hidden\n"
    assert tree.said["outside"] == ""
    assert tree.said["alias"] == "contentro\n", "a granted symlink is one inside, too"


def test_what_is_not_granted_is_not_there(tree: Tree) -> None:
    shown = tree.said["siblings"]
    assert "hidden" not in shown
    assert "single" in shown and "rw" in shown
    assert tree.said["optional"] == ""
    assert tree.said["elsewhere"] == ""


def test_programs_in_a_grant_can_be_executed(tree: Tree) -> None:
    assert tree.said["execute"] == "it runs here\n"


def test_a_writable_grant_inside_a_read_only_one(tree: Tree) -> None:
    assert tree.said["nested rw"] == "new\n"
    assert (tree.top / "ro" / "rw" / "changed").read_text() == "new\n"
    assert (tree.top / "ro" / "rw" / "made").read_text() == "made\n"


def test_a_read_only_grant_inside_a_writable_one(tree: Tree) -> None:
    assert tree.said["nested ro"] == "content"
    assert (tree.top / "rw" / "ro" / "file").read_text() == "content"


def test_names_of_any_kind(tree: Tree) -> None:
    assert tree.said["deep"].startswith("deep")
    assert tree.said["odd"] == "odd"


def test_single_files_can_be_granted(tree: Tree) -> None:
    assert tree.said["single"] == "single"
    assert (tree.top / "single").read_text() == "single"
    assert tree.said["written"] == "old"
    assert (tree.top / "written").read_text() == "new\n"


def test_the_callers_files_are_the_workloads_own(tree: Tree) -> None:
    assert tree.said["owner"].split() == ["1000:1000"] * 3 + ["755", "644"]


def test_everything_that_was_changed_is_on_the_host(tree: Tree) -> None:
    rw = tree.top / "rw"
    assert (rw / "changed").read_text() == "new\n"
    assert {path.name for path in rw.iterdir()} == {
        *("changed", "made", "run", "link", "renamed", "large", "empty", "n Ω", "ro", "secret"),
    }
    assert (rw / "made" / "deep" / "file").read_text() == "made\n"
    assert (rw / "made").stat().st_mode & 0o7777 == 0o750
    assert (rw / "made" / "link").readlink() == Path("../kept")
    assert (rw / "link").readlink() == Path("/etc/passwd")
    assert (rw / "run").stat().st_mode & 0o7777 == 0o755
    assert (rw / "run").stat().st_mtime == 981173106
    assert (rw / "renamed").read_text() == "kept"
    assert (rw / "large").read_bytes() == bytes(3_000_000)
    assert (rw / "empty").stat().st_size == 0
    assert {path.stat(follow_symlinks=False).st_uid for path in rw.rglob("*")} == {os.getuid()}


@pytest.mark.parametrize("how", ["timeout", "signal", "kill"])
def test_what_a_failed_run_wrote(contained: Containment, tmp_path: Path, how: str) -> None:
    tmp_path.chmod(0o755)
    _write(tmp_path / "rw" / "file", "old")
    line = f"echo new > {tmp_path}/rw/file; "
    line += {"timeout": "sleep 300", "signal": "kill -9 $$", "kill": "echo up; sleep 300"}[how]
    policy = contained.policy(read_write=[tmp_path / "rw"], timeout_s=2 if how == "timeout" else None)
    if how == "kill":
        with pytest.raises(InterruptedError):
            run(policy, line, on_stdout=_interrupt)
    else:
        outcome = run(policy, line).outcome
        assert outcome is (Outcome.TIMED_OUT if how == "timeout" else Outcome.SIGNALLED)
    assert (tmp_path / "rw" / "file").read_text() == ("old" if contained.copies_files else "new\n")
    assert [path.name for path in (tmp_path / "rw").iterdir()] == ["file"]


def _interrupt(_: bytes) -> None:
    raise InterruptedError


def test_what_is_missing_is_refused_by_name_all_at_once(contained: Containment, tmp_path: Path) -> None:
    policy = contained.policy(read_only=[tmp_path / "one"], read_write=["/no/such/two"])
    with pytest.raises(PolicyRefused) as caught:
        run(policy, "true")
    assert sorted(problem.path for problem in caught.value.problems) == ["read_only[0]", "read_write[0]"]


def test_a_named_pipe(contained: Containment, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    os.mkfifo(tmp_path / "pipe")
    policy = contained.policy(read_only=[tmp_path / "pipe"])
    if contained.takes_pipes:
        assert run(policy, ["test", "-p", str(tmp_path / "pipe")]).ok
        return
    with pytest.raises(PolicyRefused) as caught:
        run(policy, "true")
    assert (caught.value.problems[0].code, caught.value.problems[0].path) == (
        "grant_not_a_file",
        "read_only[0]",
    )


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self", "/sys/kernel"])
def test_devices_and_the_kernels_trees_are_refused(contained: Containment, path: str) -> None:
    with pytest.raises(PolicyRefused) as caught:
        run(contained.policy(read_write=[path]), "true")
    assert caught.value.problems[0].path == "read_write[0]"


@pytest.mark.parametrize("where", ["ro/twin", "rw/twin"])
def test_a_hard_link_shows_nothing_that_is_denied(contained: Containment, tmp_path: Path, where: str) -> None:
    tmp_path.chmod(0o755)
    secret = _write(tmp_path / "ro" / "secret", SECRET)
    _write(tmp_path / "rw" / "file", "fine")
    os.link(secret, tmp_path / where)
    policy = contained.policy(
        cwd=tmp_path, read_only=[tmp_path / "ro"], read_write=[tmp_path / "rw"], denied=[secret]
    )
    try:
        said = run(policy, f"cat rw/file; cat {where}; grep -r . ro rw").stdout.decode()
    except PolicyRefused as refused:
        assert refused.problems[0].path == "denied[0]"
    else:
        assert said.startswith("fine")
        assert SECRET not in said
    assert (tmp_path / where).read_text() == SECRET


@pytest.mark.parametrize("path", ["/usr", "/usr/bin", "/etc"])
def test_the_systems_own_directories(contained: Containment, path: str) -> None:
    policy = contained.policy(read_only=[path])
    if contained.own_system:
        with pytest.raises(PolicyRefused) as caught:
            run(policy, "true")
        (problem,) = caught.value.problems
        assert (problem.code, problem.path) == ("guest_path_reserved", "read_only[0]")
        assert problem.fix
    else:
        assert run(policy, "true").ok
