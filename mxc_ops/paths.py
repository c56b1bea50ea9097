"""Which directories an agent's tools live in, and a private temporary directory: what to put into a `Policy`.

Upstream's helpers grant the host's whole temporary directory and keep links into critical directories
(spec: cli-sdk.md §2.1, upstream-gaps.md F13); these do not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

TOOL_LISTS = ("PATH", "PYTHONPATH", "PSModulePath", "NODE_PATH", "LD_LIBRARY_PATH")
TOOL_DIRECTORIES = (
    *("PYTHONHOME", "VCINSTALLDIR", "VSINSTALLDIR", "VCPKG_ROOT", "GOPATH", "GOROOT", "CARGO_HOME"),
    *("RUSTUP_HOME", "JAVA_HOME", "NVM_HOME", "NVM_SYMLINK", "DOTNET_ROOT", "CONDA_PREFIX", "VIRTUAL_ENV"),
    "PYENV_ROOT",
)
CRITICAL = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/boot", "/proc", "/sys", "/dev", "/etc", "/run")
"""Directories whose content belongs to the system: the sandbox has its own, or must not see them."""


def tool_paths(environ: Mapping[str, str] | None = None) -> list[str]:
    """The directories that PATH and 19 more variables name, fit for ``Policy(read_only=...)``.

    Links are resolved first; dropped are directories that do not exist, that lie in or hold a system-critical
    directory (``/``, ``/usr``), and that hold the user's home.

    Parameters
    ----------
    environ: the variables to look into; by default our own.
    """
    variables = os.environ if environ is None else environ
    named = [entry for name in TOOL_LISTS for entry in variables.get(name, "").split(os.pathsep)]
    named += [variables.get(name, "") for name in TOOL_DIRECTORIES]
    return _usable(named, _home(variables))


def user_profile_paths(environ: Mapping[str, str] | None = None) -> list[str]:
    """``~/.local/bin`` and ``~/.local/lib`` where they exist, resolved and filtered as `tool_paths` does."""
    variables = os.environ if environ is None else environ
    home = _home(variables)
    return _usable((f"{home}/.local/bin", f"{home}/.local/lib"), home)


@contextmanager
def private_tmp(parent: str | os.PathLike[str] | None = None) -> Generator[str]:
    """A fresh directory for nobody else (mode 0700), to be granted read-write; removed at the end.

    It belongs to the user behind ``SUDO_UID``, if there is one, who could not delegate it otherwise.

    Parameters
    ----------
    parent: where to make it; by default the host's temporary directory.
    """
    import tempfile

    from backends.linux.delegation import calling_user

    path = tempfile.mkdtemp(prefix="mxc-", dir=parent)
    try:
        caller = calling_user()
        if caller.uid != os.geteuid():
            os.chown(path, caller.uid, caller.gid)
        yield path
    finally:
        _remove_tree(path)


def _usable(named: Iterable[str], home: str) -> list[str]:
    kept: dict[str, None] = {}
    for entry in named:
        if not entry.startswith("/"):
            continue
        path = os.path.realpath(entry)
        if os.path.isdir(path) and not _is_critical(path, home):  # noqa: PTH112 - text in, text out
            kept[path] = None
    return list(kept)


def _is_critical(path: str, home: str) -> bool:
    return any(
        _within(path, critical) or _within(os.path.realpath(critical), path)
        for critical in {*CRITICAL, *map(os.path.realpath, CRITICAL)}
    ) or _within(home, path)


def _within(path: str, tree: str) -> bool:
    return path == tree or path.startswith(tree.rstrip("/") + "/")


def _home(variables: Mapping[str, str]) -> str:
    home = variables.get("HOME", "")
    return os.path.realpath(home if home.startswith("/") else Path("~").expanduser())


def _remove_tree(path: str) -> None:
    """Remove it even where the workload took our own permissions away; each pass opens one level more."""
    import shutil

    for _ in range(1024):
        blocked: list[str] = []
        shutil.rmtree(path, onerror=lambda _function, at, _error, to=blocked: to.append(at))
        if not blocked:
            return
        for at in blocked:
            _open_up(at)
            _open_up(os.path.dirname(at))  # noqa: PTH120
    shutil.rmtree(path)


def _open_up(path: str) -> None:
    """Give ourselves a directory back. By descriptor: a link in its place must not be followed."""
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.chmod(f"/proc/self/fd/{fd}", 0o700)  # noqa: PTH101
    except PermissionError:
        return
    finally:
        os.close(fd)
