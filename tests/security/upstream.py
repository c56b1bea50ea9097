"""How upstream starts bubblewrap, and weaker ways: there an attack works before it is shown to fail.

The options and their order are a fact of upstream's executor 1.0.1 (bubblewrap backend, network isolated);
none of its code is here.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

Paths = Sequence[str | Path]

_BASELINE = (
    *("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
    *("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/share", "/etc"),
    *("/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/mnt/wsl/resolv.conf"),
)
_NAMESPACES = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent")
ALL_CAPABILITIES = ("--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL")
"""With these anybody keeps every capability in the user namespace, as root does with upstream's arguments."""


def upstream_argv(
    command: str | Sequence[str],
    *,
    read_only: Paths = (),
    read_write: Paths = (),
    denied: Paths = (),
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> list[str]:
    """The command line that upstream makes of this policy."""
    argv = ["bwrap", *_NAMESPACES, "--unshare-net"]
    for path in _BASELINE:
        argv += ["--ro-bind-try", path, path]
    argv += ["--symlink", "/run", "/var/run", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    argv += policy_options(read_only=read_only, read_write=read_write, denied=denied)
    if cwd is not None:
        argv += ["--chdir", str(cwd)]
    argv += ["--clearenv"]
    for name, value in (env or {"PATH": "/usr/bin:/bin"}).items():
        argv += ["--setenv", name, value]
    return [*argv, "--", *shell(command)]


def bare_argv(
    command: str | Sequence[str],
    *options: str,
    read_only: Paths = (),
    read_write: Paths = (),
    denied: Paths = (),
) -> list[str]:
    """The weakest invocation: the host's whole root, writable, with `options` and the policy on top."""
    policy = policy_options(read_only=read_only, read_write=read_write, denied=denied)
    return ["bwrap", "--bind", "/", "/", *options, *policy, "--", *shell(command)]


def policy_options(*, read_only: Paths, read_write: Paths, denied: Paths) -> list[str]:
    """Upstream's mounts for a policy, shallow to deep."""
    mounts = [
        *((str(path), ["--bind", str(path), str(path)]) for path in read_write),
        *((str(path), ["--ro-bind", str(path), str(path)]) for path in read_only),
        *((str(path), _mask(str(path))) for path in denied),
    ]
    return [word for _, options in sorted(mounts, key=lambda mount: mount[0].count("/")) for word in options]


def shell(command: str | Sequence[str]) -> list[str]:
    """A command as upstream hands it over."""
    return ["sh", "-c", command if isinstance(command, str) else shlex.join(command)]


def _mask(path: str) -> list[str]:
    return ["--ro-bind", "/dev/null", path] if os.path.isfile(path) else ["--tmpfs", path]  # noqa: PTH113
