"""Drive the real launcher: both modes, without the rest of the product."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.frozen import replace
from backends.inside import build, codec, protocol, store

DEADLINE_S = 20
SANDBOX_UID = 61999
_NEW_NAMESPACES = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
_DROP = (
    "setpriv",
    f"--reuid={SANDBOX_UID}",
    f"--regid={SANDBOX_UID}",
    "--clear-groups",
    "--inh-caps=-all",
    "--",
)
AS_PROCESS_1 = (
    (*_NEW_NAMESPACES, "--", *_DROP)
    if os.geteuid() == 0
    else (*_NEW_NAMESPACES, "--user", "--map-current-user", "--")
)
"""Runs a program as process 1 of a pid namespace, without privileges: what bubblewrap does for the inside."""

PATH = (("PATH", "/usr/bin:/bin"),)


@dataclass(frozen=True)
class Finished:
    """What a launcher did: its messages in order, its exit code, what the workload wrote."""

    messages: tuple[protocol.Message, ...]
    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def failure(self) -> protocol.Failed:
        [failure] = [message for message in self.messages if isinstance(message, protocol.Failed)]
        return failure

    @property
    def ended(self) -> protocol.EndedMessage:
        [ended] = [message for message in self.messages if isinstance(message, protocol.EndedMessage)]
        return ended


class Launch:
    """A running launcher and the host's end of its control socket. Use as a context manager."""

    def __init__(
        self,
        mode: str,
        encoded: bytes,
        wrapper: Sequence[str],
        launcher_end: socket.socket,
        host: socket.socket,
        pass_fds: Sequence[int] = (),
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
    ) -> None:
        self.control = host
        self.control.settimeout(DEADLINE_S)
        spec = codec.spec_memfd(encoded)
        try:
            self.process = subprocess.Popen(
                [*wrapper, str(launcher_path()), mode, str(spec)],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                env={"LAUNCHER_SECRET": "must not be seen", "PATH": os.environ["PATH"]},
                pass_fds=(spec, launcher_end.fileno(), *pass_fds),
            )
        finally:
            os.close(spec)
            launcher_end.close()

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *_: object) -> None:
        self.control.close()
        self.process.kill()
        self.process.communicate()

    def message(self) -> protocol.Message | None:
        """The next message; None when the launcher's end is closed."""
        data = self.control.recv(protocol.MESSAGE_BYTES)
        return codec.decode_message(data) if data else None

    def signal(self, number: int) -> None:
        self.control.send(codec.signal_message(number))

    def finish(self) -> Finished:
        stdout, stderr = self.process.communicate(timeout=DEADLINE_S)
        messages: list[protocol.Message] = []
        while (message := self.message()) is not None:
            messages.append(message)
        return Finished(tuple(messages), self.process.returncode, stdout or b"", stderr or b"")


def launcher_path() -> Path:
    found = store.find_program(store.LAUNCHER)
    return Path(found) if found else build.build_program(store.LAUNCHER)


def inside_spec(*argv: str, **settings: object) -> protocol.InsideSpec:
    """A spec whose `control` is filled in by `start_inside`."""
    spec = protocol.InsideSpec(control=-1, argv=argv, env=PATH)
    return replace(spec, **settings)


def start_inside(
    spec: protocol.InsideSpec,
    *,
    wrapper: Sequence[str] = AS_PROCESS_1,
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
) -> Launch:
    host, launcher_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    encoded = codec.encode(replace(spec, control=launcher_end.fileno()))
    return Launch("inside", encoded, wrapper, launcher_end, host, pass_fds, stdin, stdout)


def run_inside(*argv: str, pass_fds: Sequence[int] = (), **settings: object) -> Finished:
    """Run `argv` as a workload under a launcher that is process 1 of a new pid namespace."""
    with start_inside(inside_spec(*argv, **settings), pass_fds=pass_fds) as launch:
        return launch.finish()


def start_outside(
    argv: tuple[str, ...], *, wrapper: Sequence[str] = (), pass_fds: Sequence[int] = (), **settings: object
) -> Launch:
    """Start `argv` where bubblewrap would be; the recorded parent is this process unless given."""
    host, launcher_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    spec = protocol.OutsideSpec(parent_pid=os.getpid(), control=launcher_end.fileno(), argv=argv)
    spec = replace(spec, **settings)
    return Launch("outside", codec.encode(spec), wrapper, launcher_end, host, pass_fds)


def run_outside(
    *argv: str, wrapper: Sequence[str] = (), pass_fds: Sequence[int] = (), **settings: object
) -> Finished:
    with start_outside(argv, wrapper=wrapper, pass_fds=pass_fds, **settings) as launch:
        return launch.finish()
