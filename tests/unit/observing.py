"""Observe real paths and let go of the descriptors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.base import Access, FilesystemView, Grant, HostPath
from backends.errors import PolicyRefused
from backends.linux.delegation import Caller
from backends.linux.objects import calling_user, observe_paths
from mxc_ops.policy.filesystem import resolve_filesystem

RO, RW, DENIED = Access.READ_ONLY, Access.READ_WRITE, Access.DENIED
Entry = tuple[str | Path, Access]


def observe(
    *policy: Entry, caller: Caller | None = None, visible: Sequence[str | Path] = ()
) -> list[HostPath]:
    """What the paths are, for `caller` (by default: whoever runs the tests)."""
    grants = [Grant(str(path), access, f"/{index}") for index, (path, access) in enumerate(policy)]
    found, objects = observe_paths(
        grants, caller or calling_user(), visible_trees=[str(tree) for tree in visible]
    )
    objects.close()
    return list(found)


def resolve(*policy: Entry, visible: Sequence[str | Path] = ()) -> FilesystemView:
    return resolve_filesystem(observe(*policy, visible=visible), [str(tree) for tree in visible])


def others(path: HostPath) -> dict[str, str]:
    """The further names found, and why they name the same."""
    return {other.path: other.why for other in path.others}


@dataclass(frozen=True)
class Seen:
    """What a policy looks like among the mounts of another namespace."""

    others: list[dict[str, str]]
    kernel_mounts: list[list[str]]
    steps: list[list[str]]
    refused: list[str]


def with_mounts(commands: str, *policy: Entry, visible: Sequence[str | Path] = ()) -> Seen:
    """Run the shell `commands` in a private mount namespace, then observe and resolve `policy` there."""
    source = "import sys; from tests.unit.observing import report; report(sys.stdin.read())"
    request = [[(str(path), access.value) for path, access in policy], [str(tree) for tree in visible]]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f'{commands}\nexec "$0" -c "$1"', sys.executable, source],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Seen(**json.loads(done.stdout))


def report(request: str) -> None:
    """The inner side of `with_mounts`."""
    entries, visible = json.loads(request)
    found = observe(*((path, Access(access)) for path, access in entries), visible=visible)
    steps: list[tuple[str, str]] = []
    refused: list[str] = []
    try:
        steps = [(entry.effect.value, entry.path) for entry in resolve_filesystem(found, visible).entries]
    except PolicyRefused as refusal:
        refused = [problem.code for problem in refusal.problems]
    seen = Seen([others(path) for path in found], [list(path.kernel_mounts) for path in found], [], refused)
    json.dump({**vars(seen), "steps": steps}, sys.stdout)
