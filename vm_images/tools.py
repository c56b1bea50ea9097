"""Programs that images are made with: found, run under a deadline, their last words kept for the error."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from backends.errors import BackendUnavailable, PrepFailed, Problem

__all__ = ["PREP_FIX", "find_tool", "run_tool"]

PREP_FIX = "mxc-ops prep host --backend microvm --feature build --yes"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAST_WORDS = 1500
_FULL = b"No space left on device"
_GRACE_S = 10
_END_S = 20
_WATCH_S = 0.05
_KEEPER = Path(__file__).with_name("keeper.py")
_PASSED_ON = ("HOME", "http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")


def find_tool(*names: str, fix: str = PREP_FIX) -> str:
    """The path of the first of these programs that is installed.

    Parameters
    ----------
    fix: what installs it, for the error.

    Raises `BackendUnavailable` when none is.
    """
    for name in names:
        if found := shutil.which(name, path=_PATH):
            return found
    message = f"{' or '.join(names)} is not installed, and making images takes it"
    raise BackendUnavailable(Problem("image_tool", "", message, fix=fix))


def run_tool(
    argv: Sequence[str | Path],
    *,
    deadline_s: float,
    stdin: bytes = b"",
    output: Path | None = None,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    keep: Sequence[int] = (),
    name: str = "",
    fix: str = "",
    retryable: bool = False,
    watch: Callable[[], None] | None = None,
) -> bytes:
    """Run a program to its end; returns what it wrote to standard output.

    It dies with us, killed or not, and with it everything that it started; nothing of that outlives it.

    Parameters
    ----------
    deadline_s: after so many seconds it is ended.
    output: a file for standard output; nothing is returned then.
    environment: beside PATH, the locale and the proxies, which are ours.
    keep: descriptors that it gets, under the same numbers.
    name: what people call the program, where that is not its first word.
    fix, retryable: for the error.
    watch: called again and again while it runs, and at its end; what it raises ends the program, too.

    Raises `PrepFailed` with the last words of a program that fails or does not end.
    """
    words = [str(word) for word in argv]
    title = name or _name(words)
    wanted, child = _start(words, output, cwd, _environment() | dict(environment or {}), keep)
    try:
        said, complaints = _communicate(child, stdin, deadline_s, watch)
    except subprocess.TimeoutExpired:
        _end(child, wanted)
        message = f"{title} did not end within {deadline_s:.0f} s"
        raise PrepFailed(Problem("image_tool_hangs", "", message, fix=fix), retryable=True) from None
    except BaseException:
        _end(child, wanted)
        raise
    finally:
        wanted.close()
    if child.returncode != 0:
        problem = _failed(title, child.returncode, complaints or said or b"", fix)
        raise PrepFailed(problem, retryable=retryable)
    return said or b""


def _start(
    words: Sequence[str],
    output: Path | None,
    cwd: Path | None,
    environment: Mapping[str, str],
    keep: Sequence[int],
) -> tuple[IO[bytes], subprocess.Popen[bytes]]:
    """Under a keeper, which ends it when the file is closed."""
    sink = output.open("wb") if output else None
    held, ours = os.pipe()
    wanted = os.fdopen(ours, "wb")
    try:
        return wanted, subprocess.Popen(
            [sys.executable, "-I", "-S", _KEEPER, str(held), *words],
            stdin=subprocess.PIPE,
            stdout=sink or subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environment,
            start_new_session=True,
            pass_fds=(*keep, held),
        )
    except BaseException:
        wanted.close()
        raise
    finally:
        os.close(held)
        if sink:
            sink.close()


def _communicate(
    child: subprocess.Popen[bytes], stdin: bytes, deadline_s: float, watch: Callable[[], None] | None
) -> tuple[bytes, bytes]:
    if watch is None:
        return child.communicate(stdin, deadline_s)
    give_up = time.monotonic() + deadline_s
    given = stdin
    while True:
        try:
            answer = child.communicate(given, _WATCH_S)
        except subprocess.TimeoutExpired:
            given = b""  # the first call keeps the rest of it
            if time.monotonic() > give_up:
                raise
            watch()
        else:
            watch()
            return answer


def _name(words: Sequence[str]) -> str:
    """What people call the program: a module that Python runs has a name of its own."""
    return words[2] if words[1:2] == ["-m"] else Path(words[0]).name


def _failed(program: str, status: int, words: bytes, fix: str) -> Problem:
    if _FULL in words:
        fix = "make room where images are kept: df -h; mxc-ops image gc"
    last = words.decode("utf-8", "replace").strip()[-_LAST_WORDS:]
    return Problem("image_tool_failed", "", f"{program} failed with status {status}: {last}", fix=fix)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return {**kept, "PATH": _PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", "DEBIAN_FRONTEND": "noninteractive"}


def _end(child: subprocess.Popen[bytes], wanted: IO[bytes]) -> None:
    """Ask its whole session to end, then have it ended."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.communicate(timeout=_GRACE_S)
    wanted.close()
    with suppress(subprocess.TimeoutExpired):
        child.communicate(timeout=_END_S)
