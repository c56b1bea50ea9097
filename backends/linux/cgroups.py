"""One control group per sandbox, by cgroup v2 or v1, whichever this host gives us.

Groups live below the group we are in ourselves (v1), so that no enclosing limit is escaped, or beside it
where v2 forbids processes in inner groups. They carry their owner's pid namespace, pid and start time in
their name: what a killed owner left behind is empty, and the next start, or `sweep_groups`, removes it.
Kernel documentation: admin-guide/cgroup-v2.rst, cgroup-v1/{memory,pids}.rst, scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count

from backends.frozen import frozen

_FOLDER = "mxc-ops"
_CPU_PERIOD_US = 100_000
CONTROLLERS = ("memory", "pids", "cpu")


@frozen
class CgroupFacts:
    """Where groups can be made: `parents` maps each usable controller to a directory we may create in."""

    version: str  # "v2" | "v1" | "none"
    parents: Mapping[str, str]


NO_CGROUPS = CgroupFacts("none", {})


def observe_cgroups(proc: str = "/proc/self") -> CgroupFacts:
    """Find the controllers in which the caller may create groups. Reads only.

    Parameters
    ----------
    proc: the process directory whose ``cgroup`` and ``mountinfo`` are read.
    """
    try:
        memberships = [line.split(":", 2) for line in _read(f"{proc}/cgroup").splitlines()]
        mounts = _cgroup_mounts(_read(f"{proc}/mountinfo"))
    except OSError:
        return NO_CGROUPS
    unified = next((path for number, names, path in memberships if number == "0" and not names), None)
    if unified is not None and "" in mounts:
        found = _v2_parents(mounts[""], unified)
        if found:
            return CgroupFacts("v2", found)
    found = _v1_parents(mounts, memberships)
    return CgroupFacts("v1", found) if found else NO_CGROUPS


def _cgroup_mounts(mountinfo: str) -> dict[str, tuple[str, str]]:
    """Controller → (mount point, root of the mount inside the hierarchy); the key "" is the v2 hierarchy."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.partition(" ")
        fields = left.split()
        if kind == "cgroup2":
            mounts.setdefault("", (fields[4], fields[3]))
        elif kind == "cgroup":
            for option in options.rsplit(" ", 1)[-1].split(","):
                mounts.setdefault(option, (fields[4], fields[3]))
    return mounts


def _own_directory(mount: tuple[str, str], path: str) -> str:
    point, root = mount
    inside = path.removeprefix(root.rstrip("/")) if root != "/" else path
    return (point + inside).rstrip("/")


def _v1_parents(mounts: Mapping[str, tuple[str, str]], memberships: list[list[str]]) -> dict[str, str]:
    parents: dict[str, str] = {}
    for _, names, path in memberships:
        for controller in names.split(","):
            if controller in CONTROLLERS and controller in mounts:
                own = _own_directory(mounts[controller], path)
                if os.access(own, os.W_OK | os.X_OK):
                    parents[controller] = own
    return parents


def _v2_parents(mount: tuple[str, str], path: str) -> dict[str, str]:
    """The nearest directory, from our own group upwards, whose children carry the controllers.

    Only a group without processes of its own may hand controllers down, except for the root group; moving a
    process also needs write permission on the common ancestor's cgroup.procs.
    """
    directory = _own_directory(mount, path)
    while len(directory) >= len(mount[0]):
        with suppress(OSError):
            handed_down = _read(f"{directory}/cgroup.subtree_control").split()
            usable = [name for name in CONTROLLERS if name in handed_down]
            writable = os.access(directory, os.W_OK | os.X_OK) and os.access(
                f"{directory}/cgroup.procs", os.W_OK
            )
            if usable and writable:
                return dict.fromkeys(usable, directory)
        directory = os.path.dirname(directory)
    return {}


_sequence = count()
_left: set[str] = set()


def _remove_left() -> None:
    for directory in tuple(_left):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            pass
        except OSError:
            continue
        _left.discard(directory)


class SandboxCgroup:
    """The groups of one sandbox. Create, hand `join_fds` to the launcher, `read_hits`, `remove`."""

    def __init__(self, facts: CgroupFacts, settings: Mapping[str, Mapping[str, str]]) -> None:
        """Make the groups and write their limits.

        Parameters
        ----------
        facts: from `observe_cgroups`.
        settings: controller → file name → text, from `limit_settings`.

        Raises `OSError` when the kernel refuses; nothing is left behind then.
        """
        _remove_left()
        self._directories: dict[str, str] = {}
        self._version = facts.version
        name = f"{_FOLDER}-{_namespace()}-{os.getpid()}-{_start_time(os.getpid())}-{next(_sequence)}"
        try:
            for controller, files in settings.items():
                parent = facts.parents[controller]
                _sweep_once(parent)
                directory = f"{parent}/{name}"
                if directory not in self._directories.values():
                    os.mkdir(directory)
                self._directories[controller] = directory
                for file, text in files.items():
                    _write_setting(directory, file, text)
        except OSError:
            self.remove()
            raise

    def open_join_fds(self) -> list[int]:
        """Descriptors of each group's ``cgroup.procs``; a process that writes ``0`` there joins."""
        return [
            os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            for directory in sorted(set(self._directories.values()))
        ]

    def read_hits(self) -> dict[str, bool]:
        """Controller → whether its limit was hit during the run."""
        return {
            controller: any(
                _counter(f"{directory}/{file}", key) > 0 for file, key in _HIT_COUNTERS[controller]
            )
            for controller, directory in self._directories.items()
        }

    def remove(self) -> None:
        """Remove the (empty) groups; one with a dying process in it goes when the next is made or removed."""
        _left.update(self._directories.values())
        _remove_left()


_HIT_COUNTERS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "memory": (("memory.events", "oom_kill"), ("memory.oom_control", "oom_kill")),
    "pids": (("pids.events", "max"),),
    "cpu": (("cpu.stat", "nr_throttled"),),
}


def limit_settings(
    version: str, memory_mib: int | None, pids: int | None, cpus: float | None
) -> dict[str, dict[str, str]]:
    """Controller → file → text for the asked limits. Pure.

    A file whose name starts with ``?`` is written only where the kernel has it (swap accounting is optional).
    """
    settings: dict[str, dict[str, str]] = {}
    v2 = version == "v2"
    if memory_mib is not None:
        size = str(memory_mib * 1024 * 1024)
        if v2:
            settings["memory"] = {"memory.max": size, "?memory.swap.max": "0", "?memory.oom.group": "1"}
        else:
            settings["memory"] = {"memory.limit_in_bytes": size, "?memory.memsw.limit_in_bytes": size}
    if pids is not None:
        settings["pids"] = {"pids.max": str(pids)}
    if cpus is not None:
        quota = round(cpus * _CPU_PERIOD_US)
        if v2:
            settings["cpu"] = {"cpu.max": f"{quota} {_CPU_PERIOD_US}"}
        else:
            settings["cpu"] = {"cpu.cfs_period_us": str(_CPU_PERIOD_US), "cpu.cfs_quota_us": str(quota)}
    return settings


def _read(file: str) -> str:
    with open(file) as handle:
        return handle.read()


def _write_setting(directory: str, file: str, text: str) -> None:
    target = f"{directory}/{file.removeprefix('?')}"
    if file.startswith("?") and not os.path.exists(target):
        return
    with open(target, "w") as handle:
        handle.write(text)


def _counter(file: str, key: str) -> int:
    with suppress(OSError, ValueError):
        for line in _read(file).splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return 0


def _start_time(pid: int) -> str:
    """Start time in clock ticks since boot: with the pid, an identity (proc(5), stat, field 22).

    Raises `OSError`.
    """
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]


_swept: set[str] = set()


def _sweep_once(parent: str) -> None:
    """Remove the empty groups of owners that are dead, once per process and directory."""
    if parent not in _swept:
        _swept.add(parent)
        _sweep(parent, os.listdir(parent))


def sweep_groups(proc: str = "/proc/self") -> list[str]:
    """Remove what killed owners left anywhere in the hierarchies that we see: the paths of those groups.

    Parameters
    ----------
    proc: the process directory whose ``mountinfo`` is read.
    """
    try:
        mounts = _cgroup_mounts(_read(f"{proc}/mountinfo"))
    except OSError:
        return []
    swept: list[str] = []
    for point in sorted({mounts[name][0] for name in ("", *CONTROLLERS) if name in mounts}):
        for parent, names, _ in os.walk(point):
            swept += _sweep(parent, names)
    return swept


def _sweep(parent: str, names: Iterable[str]) -> list[str]:
    swept: list[str] = []
    for name in names:
        if _owner_is_dead(name):
            with suppress(OSError):
                os.rmdir(f"{parent}/{name}")
                swept.append(f"{parent}/{name}")
    return swept


def _owner_is_dead(name: str) -> bool:
    """A pid means something in its own pid namespace only: who is of another one is taken to live."""
    if not name.startswith(f"{_FOLDER}-") or name.count("-") != _FOLDER.count("-") + 4:
        return False
    _, namespace, pid, started, _ = name.rsplit("-", 4)
    if namespace != str(_namespace()) or not pid.isdigit():
        return False
    try:
        return _start_time(int(pid)) != started
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False  # who cannot be looked at may live


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
