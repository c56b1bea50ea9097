"""The environment that a workload gets: nothing of the caller's (policy-semantics.md §5)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from backends.base import Environment, SandboxRequest, SecretSource
from backends.errors import ConfigError, Problem
from backends.network.environment import is_proxy_variable, uses_proxy
from mxc_ops.policy.command import MAX_STRING_BYTES, too_long

__all__ = [
    "DEFAULT_ENVIRONMENT",
    "SECRETS_POINTER",
    "SecretValues",
    "proxy_secrets",
    "read_secrets",
    "resolve_environment",
]

DEFAULT_ENVIRONMENT = (
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("TERM", "xterm-256color"),
)
"""What the workload gets when nothing is said: the constants of upstream's 1.0.1."""


_DESCRIPTOR_DEADLINE_S = 10.0
_ENV_POINTER = "/process/env"
SECRETS_POINTER = "/mxcOps/env"


class SecretValues(tuple[tuple[str, str], ...]):
    """(name, value) pairs that do not show themselves. Values decode as file names do (surrogateescape)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secret values>"


def resolve_environment(
    entries: Sequence[str] | None,
    *,
    inherit_default: bool = False,
    secrets: Mapping[str, SecretSource] | None = None,
) -> tuple[Environment, tuple[str, ...]]:
    """Work out exactly what the workload gets, and what to warn about. Pure.

    Parameters
    ----------
    entries: ``NAME=value`` as written; None (not said) means the default environment, empty means empty.
    inherit_default: lay `entries` over the default environment instead of replacing it.
    secrets: names whose values are read elsewhere; they replace a default of the same name.

    Of a name given twice the last value holds, as with upstream's setenv order. Raises `ConfigError` with
    every entry that is not ``NAME=value``, holds a NUL, is too long, or is also a secret. No value is ever
    printed.
    """
    secret_sources = secrets or {}
    values: dict[str, str] = dict(DEFAULT_ENVIRONMENT) if entries is None or inherit_default else {}
    problems: list[Problem] = []
    warnings: list[str] = []
    written: dict[str, str] = {}
    for index, entry in enumerate(entries or ()):
        pointer = f"{_ENV_POINTER}/{index}"
        name, equals, value = entry.partition("=")
        wrong = _what_is_wrong(name, equals, entry)
        if wrong:
            problems.append(Problem("bad_environment_entry", pointer, wrong, expected="NAME=value"))
            continue
        if name in secret_sources:
            problems.append(_given_twice(pointer, name))
        if name in written:
            warnings.append(
                f"{pointer}: {_shown(name)} was given before, at {written[name]}; the last value holds"
            )
        written[name] = pointer
        values[name] = value
    if problems:
        raise ConfigError(problems)
    kept = tuple((name, value) for name, value in values.items() if name not in secret_sources)
    return Environment(kept, tuple(secret_sources.items())), tuple(warnings)


def _what_is_wrong(name: str, equals: str, entry: str) -> str:
    if not equals:
        return "the entry has no '='"
    if not name:
        return "the name before '=' is empty"
    if "\0" in entry:
        return "the entry holds a NUL character"
    if too_long(entry):
        return f"the entry is longer than the {MAX_STRING_BYTES} bytes that the kernel takes"
    return ""


def _given_twice(pointer: str, name: str) -> Problem:
    return Problem(
        "environment_name_given_twice",
        pointer,
        f"{_shown(name)} is also given as a secret in {SECRETS_POINTER}",
        fix=f"remove it from {_ENV_POINTER} or from {SECRETS_POINTER}",
    )


def _shown(name: str) -> str:
    from mxc_ops.config import wording

    return wording.name(name)


# --- secrets ---------------------------------------------------------------------------------------


def proxy_secrets(request: SandboxRequest) -> Iterator[Problem]:
    """Secrets in the variables that say where the sandbox's proxy is, while it has one: no plan knows their
    values, so none could be taken out (policy-semantics.md §3.3)."""
    if not (request.environment.secrets and uses_proxy(request.network)):
        return
    pointer = request.pointers.get("secrets", SECRETS_POINTER)
    for name, _source in request.environment.secrets:
        if is_proxy_variable(name):
            yield Problem(
                "proxy_variable_taken",
                _place(pointer, name),
                f"{_shown(name)} says where the sandbox's proxy is, and is set by mxc-ops",
                fix="remove it: the sandbox's proxy is the only one that can be reached",
            )


def _place(pointer: str, name: str) -> str:
    """Where the caller named a secret: below a JSON pointer, or an argument of `Policy`."""
    from mxc_ops.config import wording

    return f"{pointer}[{name!r}]" if pointer.isidentifier() else pointer + wording.pointer((name,))


def read_secrets(environment: Environment, pointer: str = SECRETS_POINTER) -> SecretValues:
    """Read the values of `environment.secrets`, each to the end of its file or descriptor.

    A file must be a regular file that the calling user (behind sudo: the user who called it) can read. A
    descriptor is read from where it stands and stays the caller's to close. One trailing newline is dropped.
    `pointer` is where the caller named the secrets: a JSON pointer, or an argument of `Policy`.

    Raises `ConfigError` with every secret that cannot be had: missing, unreadable, not a regular file, not
    ended within 10 s, holding a NUL, or too long for the kernel; `PolicyRefused` when the rights of the user
    behind sudo cannot be taken on.
    """
    values: list[tuple[str, str]] = []
    problems: list[Problem] = []
    for name, source in environment.secrets:
        try:
            values.append((name, _value(name, source)))
        except _Unreadable as failure:
            problems.append(
                Problem("secret_unreadable", _place(pointer, name), str(failure), fix=failure.fix)
            )
    if problems:
        raise ConfigError(problems)
    return SecretValues(values)


class _Unreadable(Exception):
    """Why a secret cannot be had; holds nothing of its value."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.fix = fix


def _value(name: str, source: SecretSource) -> str:
    if source.file is not None:
        raw = _file_content(source.file)
    elif source.fd is not None:
        raw = _descriptor_content(source.fd)
    else:
        raise _Unreadable("names neither a file nor a descriptor")
    raw = raw.removesuffix(b"\n")
    if b"\0" in raw:
        raise _Unreadable("the value holds a NUL character, which no environment can carry")
    value = raw.decode("utf-8", "surrogateescape")
    if too_long(f"{name}={value}"):
        raise _Unreadable(f"the value is longer than the {MAX_STRING_BYTES} bytes that the kernel takes")
    return value


def _file_content(path: str) -> bytes:
    from backends.linux.delegation import as_caller, calling_user

    if not path.startswith("/"):
        raise _Unreadable("the path of the file is not absolute")
    shown = _shown(path)

    def read(_: object) -> bytes:
        # Non-blocking: opening a FIFO must not wait for its writer before it is found not to be a file.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _Unreadable(f"{shown} is not a regular file")
            return _read_to_end(descriptor)
        finally:
            os.close(descriptor)

    try:
        return as_caller(calling_user(), read)
    except PermissionError as error:
        fix = 'let the calling user read it, or pass an open descriptor: {"fd": 3}'
        raise _Unreadable(f"cannot read {shown}: {error.strerror}", fix) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
        raise _Unreadable(f"cannot read {shown}: {why}") from None


def _descriptor_content(descriptor: int) -> bytes:
    try:
        return _read_to_end(descriptor)
    except OSError as error:
        raise _Unreadable(
            f"cannot read descriptor {descriptor}: {error.strerror}", "open it for the call: mxc-ops … 3<FILE"
        ) from None


def _read_to_end(descriptor: int) -> bytes:
    """Everything up to the end, or one byte more than can be used. A silent pipe is given up after 10 s."""
    import select
    import time

    deadline = time.monotonic() + _DESCRIPTOR_DEADLINE_S
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    content = b""
    while len(content) <= MAX_STRING_BYTES:
        left_ms = (deadline - time.monotonic()) * 1000
        if left_ms <= 0 or not poll.poll(left_ms):
            raise _Unreadable(f"descriptor {descriptor} did not end within {_DESCRIPTOR_DEADLINE_S:.0f} s")
        chunk = os.read(descriptor, MAX_STRING_BYTES + 2 - len(content))
        if not chunk:
            break
        content += chunk
    return content
