"""The mount lines of a container, done one after the other, give every path the access of the rules."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import Access, Effect, FilesystemView, HostPath, ObjectKind, ViewEntry
from backends.guest_files.reserved import OWN_PATHS, SYSTEM_PATHS
from backends.inside.protocol import StageEntry
from backends.launched.identity import Identity
from backends.launched.parts import STAGE, plan_grants
from backends.lxc.config import config_lines, late_lines, plan_mounts
from backends.pathnames import within
from mxc_ops.policy.filesystem import resolve_filesystem
from tests.unit.policy_paths import DENIED, RO, RW, there
from tests.unit.test_policy_filesystem_model import expected

pytestmark = pytest.mark.backend("lxc")

_EXAMPLES = 3000 if os.environ.get("MXC_SOAK") == "1" else 300
_TOPS = ("/g", "/tmp", "/usr/share/g")
_PLACES = [
    *_TOPS,
    *(f"{top}/{a}{b}{c}" for top in _TOPS[:2] for a in "ab" for b in ("", "/a", "/b") for c in ("", "/a")),
]
_IDENTITY = Identity("range", 1_900_000_000, 1_900_000_000, 4096)
policies = st.dictionaries(st.sampled_from(_PLACES), st.sampled_from([RO, RW, DENIED]), max_size=7)
kinds = st.sampled_from([ObjectKind.FILE, ObjectKind.DIRECTORY])


@dataclass(frozen=True)
class Mount:
    """One line as LXC reads it."""

    source: str
    target: str
    options: tuple[str, ...]

    @property
    def creates(self) -> str:
        return next((option.removeprefix("create=") for option in self.options if "create=" in option), "")


def read_config(lines: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """Keys and values, by the rules of lxc.container.conf(5): a line each, blanks around both ignored."""
    text = "\n".join([*lines, ""]).encode("utf-8", "surrogateescape")
    pairs = (line.strip().partition(b"=") for line in text.split(b"\n") if line.strip())
    return [(key.strip(), value.strip()) for key, _, value in pairs]


class _Entry(ctypes.Structure):
    """What getmntent(3) gives."""

    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("source", "target", "kind", "options")),
        *((name, ctypes.c_int) for name in ("dumped", "checked")),
    ]


_C = ctypes.CDLL(None)
_C.fmemopen.restype = ctypes.c_void_p
_C.fmemopen.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p]
_C.getmntent.restype = ctypes.POINTER(_Entry)
_C.getmntent.argtypes = _C.fclose.argtypes = [ctypes.c_void_p]


def read_mount(value: bytes) -> Mount:
    """As LXC has it read: by the C library."""
    stream = _C.fmemopen(value, len(value), b"r")
    try:
        entry = _C.getmntent(stream).contents
        source, target, kind, options = map(
            os.fsdecode, (entry.source, entry.target, entry.kind, entry.options)
        )
        assert (kind, entry.dumped, entry.checked) == ("none", 0, 0)
        assert not _C.getmntent(stream), "one line is one mount"
    finally:
        _C.fclose(stream)
    return Mount(source, f"/{target}", tuple(options.split(",")))


def mounts_of(lines: Sequence[str]) -> list[Mount]:
    return [read_mount(value) for key, value in read_config(lines) if key == b"lxc.mount.entry"]


class Stage:
    """What the launcher makes, in the order that it is told: path in the stage → `S_IFMT` and permissions."""

    def __init__(self, entries: Sequence[StageEntry]) -> None:
        self.made: dict[str, int] = {}
        for entry in entries:
            self.above(entry.path)
            if not (stat.S_ISDIR(entry.mode) and stat.S_ISDIR(self.made.get(entry.path, 0))):
                assert not stat.S_ISDIR(self.made.get(entry.path, 0)), f"{entry.path} replaces a folder"
                self.made[entry.path] = entry.mode

    def above(self, path: str) -> None:
        """What is missing above is made; links on the way are refused."""
        parts = path.split("/")
        for length in range(1, len(parts)):
            mode = self.made.setdefault("/".join(parts[:length]), stat.S_IFDIR | 0o755)
            assert stat.S_ISDIR(mode), f"{path} leads through {parts[:length]}"


class Container:
    """The lines done in order. `found` maps policy paths to what they are on the host."""

    def __init__(self, view: FilesystemView, found: Mapping[str, ObjectKind]) -> None:
        planned = plan_mounts(view.entries, view.denied)
        self.found = found
        self.stage = Stage(planned.entries)
        self.grants = tuple(plan_grants(view.entries, _IDENTITY))
        self.done: list[Mount] = []
        for mount in mounts_of(config_lines(planned, apparmor="")):
            self.mount(mount)

    def covering(self, path: str) -> Mount | None:
        return next((mount for mount in reversed(self.done) if within(path, mount.target)), None)

    def in_stage(self, path: str) -> str | None:
        """Where in the stage `path` is; None when it is of a grant, hence of the host."""
        mount = self.covering(path)
        if mount is None:
            return f"root{path}"
        source = mount.source.removeprefix(f"{STAGE}/")
        return None if source.isdigit() else f"{source}{path[len(mount.target) :]}"

    def mount(self, mount: Mount) -> None:
        source = mount.source.removeprefix(f"{STAGE}/")
        wanted = self.kind_of_source(source, mount.target)
        place = self.in_stage(mount.target)
        if place is None:
            assert not mount.creates, f"{mount.target} would be created on the host"
            assert self.found[mount.target] is wanted
        elif mount.creates:
            assert not place.startswith("masks/"), "nobody can create anything in a mask"
            mode = stat.S_IFDIR if mount.creates == "dir" else stat.S_IFREG
            self.stage.above(place)
            self.stage.made.setdefault(place, mode)
        if place is not None:
            assert stat.S_ISDIR(self.stage.made[place]) is (wanted is ObjectKind.DIRECTORY), mount
        covered = [
            earlier
            for earlier in self.done
            if within(earlier.target, mount.target) and mount.target != "/tmp"  # the grant instead of ours
        ]
        assert not covered, f"{mount.target} covers {covered}"
        self.done.append(mount)

    def kind_of_source(self, source: str, target: str) -> ObjectKind:
        if source.isdigit():
            assert self.grants[int(source)].path == target
            return self.found[target]
        if source in ("tmp", "shm"):
            return ObjectKind.DIRECTORY
        mode = self.stage.made[source]
        assert stat.S_IMODE(mode) in (0, 0o111), "what is denied can at most be passed"
        return ObjectKind.DIRECTORY if stat.S_ISDIR(mode) else ObjectKind.FILE

    def access(self, path: str) -> Access:
        mount = self.covering(path)
        source = mount.source.removeprefix(f"{STAGE}/") if mount else ""
        if source.isdigit():
            return RW if self.grants[int(source)].writable else RO
        if source.startswith("masks/"):
            assert mount is not None and "ro" in mount.options
        return DENIED


@st.composite
def hosts(draw: st.DrawFn) -> list[HostPath]:
    """A policy, and what the host has: what nothing else lies below may be a file."""
    policy = draw(policies)
    found: list[HostPath] = []
    for place, access in policy.items():
        leaf = place != "/tmp" and not any(other != place and within(other, place) for other in policy)
        found.append(there(place, access, draw(kinds) if leaf else ObjectKind.DIRECTORY))
    return found


@settings(max_examples=_EXAMPLES)
@given(hosts())
def test_every_path_has_the_access_the_rules_give_it(paths: list[HostPath]) -> None:
    view = resolve_filesystem(paths, (), (*OWN_PATHS, *SYSTEM_PATHS))
    kinds_found = {path.canonical: path.kind for path in paths if path.kind is not None}
    container = Container(view, kinds_found)
    for place in _PLACES:
        if any(kinds_found.get(file) is ObjectKind.FILE and within(place, file) for file in kinds_found):
            continue
        assert container.access(place) is expected(place, paths, []), place


@settings(max_examples=_EXAMPLES)
@given(hosts())
def test_in_a_mask_there_is_only_the_way_to_what_is_granted(paths: list[HostPath]) -> None:
    view = resolve_filesystem(paths, (), (*OWN_PATHS, *SYSTEM_PATHS))
    planned = plan_mounts(view.entries, view.denied)
    stage = Stage(planned.entries)
    targets = {mount.source: mount.target for mount in mounts_of(planned.lines)}
    granted = [path.canonical for path in paths if path.grant.access is not DENIED]
    for made, mode in stage.made.items():
        if made.count("/") < 2 or not made.startswith("masks/"):
            continue
        mask = "/".join(made.split("/")[:2])
        path = f"{targets[f'{STAGE}/{mask}']}{made[len(mask) :]}"
        assert any(within(grant, path) for grant in granted), "nothing else tells what is there"
        if path not in granted:
            assert mode == stat.S_IFDIR | 0o111


letters = st.characters(codec="utf-8", exclude_characters="/\0") | st.sampled_from(
    " \t\n\\@#'\"=,%:$\r\v\f\x85\xa0\u2028é\udc80\udcff"
)
names = st.text(letters, min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))


@settings(max_examples=_EXAMPLES)
@given(st.lists(names, min_size=1, max_size=3), st.sampled_from(list(Effect)))
def test_any_name_comes_through_the_config(parts: list[str], effect: Effect) -> None:
    path = "/" + "/".join(parts)
    entries = [ViewEntry(effect, path, "/p", slot=0, kind=ObjectKind.DIRECTORY, target=path)]
    plan = plan_mounts(entries, ())
    told = read_config(config_lines(plan, apparmor=""))
    assert len(told) == len(config_lines(plan, apparmor="")), "no name ends its line"
    assert {key for key, _ in told} == {key for key, _ in read_config(config_lines(NOTHING, apparmor=""))}
    if effect is Effect.SYMLINK:
        assert [entry.path for entry in plan.entries if entry.content == path] == [f"root{path}"]
    else:
        [mount] = mounts_of(plan.lines)
        assert os.fsencode(mount.target) == os.fsencode(path)


NOTHING = plan_mounts([], ())


def test_a_name_is_no_line_of_its_own() -> None:
    path = "/g\nlxc.apparmor.profile = unconfined\n# \\040"
    plan = plan_mounts([ViewEntry(Effect.BIND_READ_ONLY, path, "/p", slot=0)], ())
    [line] = plan.lines
    assert "\n" not in line
    assert read_mount(read_config([line])[0][1]).target == path


def test_a_link_in_a_mask_shows_nothing_of_its_surroundings() -> None:
    paths = [there("/g", RW), there("/g/secret", DENIED)]
    linked = there(
        "/g/secret/deep/er/l", RO, ObjectKind.FILE,
        canonical="/g/secret/deep/f", hops=[("/g/secret/deep/er/l", "../f")],
    )  # fmt: skip
    view = resolve_filesystem([*paths, linked])
    stage = Stage(plan_mounts(view.entries, view.denied).entries)
    made = {path: mode for path, mode in stage.made.items() if path.startswith("masks/0/")}
    assert made == {
        "masks/0/deep": stat.S_IFDIR | 0o111,
        "masks/0/deep/er": stat.S_IFDIR | 0o111,
        "masks/0/deep/f": stat.S_IFREG | 0o444,
        "masks/0/deep/er/l": stat.S_IFLNK | 0o777,
    }


@pytest.mark.parametrize(
    ("denied", "hidden"),
    [
        ((), set[str]()),
        (("/etc/passwd",), {"/etc/passwd"}),
        (("/etc",), {"/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname", "/etc/nsswitch.conf"}),
        (("/et",), set[str]()),
    ],
)
def test_files_of_ours_are_not_made_where_they_are_denied(denied: tuple[str, ...], hidden: set[str]) -> None:
    made = {entry.path.removeprefix("root") for entry in plan_mounts([], denied).entries}
    assert made == {entry.path.removeprefix("root") for entry in NOTHING.entries} - hidden


def test_the_terminal_is_the_containers_console_and_nobody_elses_file() -> None:
    lines = late_lines(1, (2, 2), ("/init",), f"{STAGE}/4")
    assert mounts_of(lines) == [Mount(f"{STAGE}/4", "/dev/console", ("bind", "create=file"))]


@pytest.mark.parametrize(
    ("denied", "kept"),
    [((), True), (("/system", "/srv/sys"), True), (("/sys",), False), (("/sys/kernel/x",), False)],
)
def test_where_a_part_of_sys_is_denied_there_is_none(denied: tuple[str, ...], kept: bool) -> None:
    keys = dict(read_config(config_lines(NOTHING, apparmor="", denied=denied)))
    assert keys[b"lxc.mount.auto"].split() == [b"proc:mixed", *[b"sys:ro"] * kept]
