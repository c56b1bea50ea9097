"""Validated once, known the next time: a verdict ("this content is valid", its warnings) by content.

A verdict holds nothing of the document. It is trusted because only we can have written it: the directory is
ours alone (0700, no symbolic link on the way that others could have made), else there is no cache. On a hit
neither the models nor pydantic are imported. What depends on the host is never part of a verdict.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from backends.errors import Problem
from mxc_ops import __version__
from mxc_ops.config.document import Document, RequestKind, Strictness

__all__ = ["MAX_ENTRIES", "load_cached"]

MAX_ENTRIES = 4096

_MAX_SOURCE_BYTES = 1024 * 1024
_MAX_VERDICT_BYTES = 64 * 1024
_FORMAT = 1
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def load_cached(
    source: bytes, *, strictness: Strictness = Strictness.RANGED, one_shot_only: bool = False
) -> Document:
    """`loader.load`, quick for content that this user has had validated by this version before.

    Parameters and errors are those of `loader.load`. Only good news is kept: a document with problems is
    validated in full every time, and so is one that holds secrets.
    """
    if len(source) > _MAX_SOURCE_BYTES:
        return _load(source, strictness, one_shot_only)
    directory = _open_directory()
    if directory is None:
        return _load(source, strictness, one_shot_only)
    try:
        name = _verdict_name(source, strictness, one_shot_only)
        document = _document(source, _read(directory, name))
        if document is None:
            document = _load(source, strictness, one_shot_only)
            if not _holds_secrets(document.body):
                with suppress(OSError):
                    _write(directory, name, _verdict(document))
        return document
    finally:
        os.close(directory)


def _load(source: bytes, strictness: Strictness, one_shot_only: bool) -> Document:
    from mxc_ops.config.loader import load

    return load(source, strictness=strictness, one_shot_only=one_shot_only)


# --- naming ----------------------------------------------------------------------------------------


def _verdict_name(source: bytes, strictness: Strictness, one_shot_only: bool) -> str:
    # hashlib would load OpenSSL (4 ms); this is the interpreter's own module.
    from _blake2 import blake2b

    key = blake2b(_rules_stamp(), digest_size=32).digest()
    question = f"{_FORMAT} {__version__} {strictness.value} {one_shot_only}".encode()
    return blake2b(
        source, key=key, salt=blake2b(question, digest_size=16).digest(), digest_size=32
    ).hexdigest()


def _rules_stamp() -> bytes:
    """Changes whenever the rules do: in a checkout they change without a new version."""
    package = os.path.dirname(__file__)  # noqa: PTH120 - pathlib takes longer than the whole look-up
    stamps: list[str] = []
    for directory in (package, f"{package}/models", f"{package}/../policy"):
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    stamps.append(f"{entry.name} {status.st_mtime_ns} {status.st_size}")
    return "\n".join(sorted(stamps)).encode()


# --- the directory ---------------------------------------------------------------------------------


def _open_directory() -> int | None:
    """A descriptor of the verdict directory, made when missing; None when there is none to be trusted."""
    base = _cache_home()
    try:
        return None if base is None else _open_ours(base)
    except OSError:
        return None


def _cache_home() -> str | None:
    """XDG Base Directory Specification; without HOME there is no cache."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if configured.startswith("/"):
        return configured
    home = os.environ.get("HOME", "")
    return f"{home}/.cache" if home.startswith("/") else None


def _open_ours(base: str) -> int | None:
    """Walk down from `base` by descriptor, so that no name can be swapped behind a check."""
    parent = _open_base(base)
    if parent is None:
        return None
    for name in ("mxc-ops", "verdicts"):
        try:
            child = _open_or_make(name, parent)
        finally:
            os.close(parent)
        if not _is_private(child):
            os.close(child)
            return None
        parent = child
    return parent


def _open_base(base: str) -> int | None:
    """The cache home; made in a home directory of ours only (as root, HOME may be somebody else's)."""
    try:
        descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        above = os.stat(os.path.dirname(base))  # noqa: PTH116, PTH120 - see _rules_stamp
        if above.st_uid != os.geteuid():
            return None
        os.mkdir(base, 0o700)  # noqa: PTH102 - see _rules_stamp
        descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if os.fstat(descriptor).st_uid != os.geteuid():
        os.close(descriptor)
        return None
    return descriptor


def _open_or_make(name: str, parent: int) -> int:
    try:
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)


def _is_private(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    return status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077


# --- one verdict -----------------------------------------------------------------------------------


def _read(directory: int, name: str) -> Any:
    """The stored verdict, None when there is none or it is not one."""
    import json

    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return None
        return json.loads(os.read(descriptor, _MAX_VERDICT_BYTES))
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)


def _write(directory: int, name: str, verdict: bytes) -> None:
    if len(verdict) > _MAX_VERDICT_BYTES:
        return
    import threading

    unfinished = f".{name}.{os.getpid()}.{threading.get_ident()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(unfinished, flags, 0o600, dir_fd=directory)
    try:
        try:
            os.write(descriptor, verdict)
        finally:
            os.close(descriptor)
        os.rename(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(unfinished, dir_fd=directory)
        raise
    _prune(directory)


def _prune(directory: int) -> None:
    """Above `MAX_ENTRIES` the older half goes, unfinished writes of killed processes included."""
    names = os.listdir(directory)
    if len(names) <= MAX_ENTRIES:
        return
    by_age: list[tuple[float, str]] = []
    for name in names:
        with suppress(FileNotFoundError):
            by_age.append((os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime, name))
    for _, name in sorted(by_age)[: len(by_age) - MAX_ENTRIES // 2]:
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)


def _verdict(document: Document) -> bytes:
    import json

    return json.dumps(
        {
            "declaredVersion": document.declared_version,
            "contract": document.contract,
            "kind": document.kind.value,
            "warnings": [problem.as_dict() for problem in document.warnings],
        }
    ).encode()


def _document(source: bytes, verdict: Any) -> Document | None:
    """The document that a verdict is about; None when the file is damaged."""
    import json

    try:
        return Document(
            declared_version=verdict["declaredVersion"],
            contract=verdict["contract"],
            kind=RequestKind(verdict["kind"]),
            body=json.loads(source),
            warnings=tuple(
                Problem(one["code"], one["path"], one["message"], expected=one["expected"], fix=one["fix"])
                for one in verdict["warnings"]
            ),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _holds_secrets(body: Mapping[str, Any]) -> bool:
    """Whether something of the document must not even be guessable from a hash."""
    from mxc_ops.config.redaction import holds_secret

    # mxcOps names where secrets are; the one text of its own that can hold some is what standard input gets.
    policy = {name: value for name, value in body.items() if name != "mxcOps"}
    stdin = body.get("mxcOps", {}).get("stdin")
    return holds_secret("", policy) or (isinstance(stdin, dict) and "text" in stdin)
