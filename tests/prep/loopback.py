"""Hosts that are reached by SSH: each an sshd on the loopback interface, in a mount namespace of its own.

::

    with Sshd(keys, "mount --bind /dev/null /usr/bin/python3.11") as host:
        inventory.write_text(f"hosts = [('one', {host.data()!r})]")

A host is this machine with another /run and /tmp, and whatever the script hides. Nothing of it stays.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.conftest import CHECKOUT

__all__ = ["USER", "Sshd", "missing"]

USER = "ops"
"""A user without rights whom every host knows."""
_UID = 61233
_SSHD = "/usr/sbin/sshd"
_PROGRAMS = ("nsenter", "ssh-keygen", "unshare")
_DEADLINE_S = 20
# UsePAM no: then an account whose password is "!" counts as locked, "*" does not.
_SETUP = """
set -eu
mount -t tmpfs tmpfs /run
mkdir /run/sshd /run/ops /run/checkout
mount --bind "$5" /run/checkout
mount -t tmpfs -o mode=1777 tmpfs /tmp
case "$5" in /tmp/*) mkdir -p "$5"; mount --bind /run/checkout "$5" ;; esac
cat /etc/passwd > /run/passwd
echo "$2:x:$3:$3::/run/ops:/bin/sh" >> /run/passwd
printf 'root:*:1::::::\\n%s:*:1::::::\\n' "$2" > /run/shadow
mount --bind /run/passwd /etc/passwd
mount --bind /run/shadow /etc/shadow
eval "$4"
exec /usr/sbin/sshd -D -e -f "$1"
"""
_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 200
Subsystem sftp internal-sftp
"""


def missing() -> str:
    """Why there can be no such hosts here, with the command that mends it; "" when there can."""
    if os.geteuid() != 0:
        return "needs root: to give hosts mounts of their own"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [program for program in (_SSHD, *_PROGRAMS) if not shutil.which(program, path=path)]
    return f"{', '.join(absent)} missing: apt-get install openssh-server util-linux" if absent else ""


class Sshd:
    """Entered, it answers.

    Parameters
    ----------
    setup: a shell script that root runs in the namespace first; it may mount things.

    Attributes
    ----------
    port: of 127.0.0.1.
    """

    def __init__(self, setup: str = "") -> None:
        self._setup = setup
        self._folder = Path(tempfile.mkdtemp(prefix="mxc-sshd-", dir="/var/tmp"))
        self._daemon: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Sshd:
        self._folder.chmod(0o755)  # sshd reads the list of keys as the user who comes
        for name in ("host", "user"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self._folder / name)]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        host_key = (self._folder / "host.pub").read_text()
        (self._folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        config = self._folder / "config"
        config.write_text(_CONFIG.format(port=self.port, folder=self._folder))
        inside = ["sh", "-c", _SETUP, "sshd", str(config), USER, str(_UID), self._setup, str(CHECKOUT)]
        with (self._folder / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                ["unshare", "--mount", *inside], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._await()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No host any more: connections are refused, and those that there are end."""
        if self._daemon is not None:
            self.hang_up()
            self._daemon.kill()
            self._daemon.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def hang_up(self) -> None:
        """End every connection that there is."""
        assert self._daemon is not None
        with suppress(FileNotFoundError):
            pid = self._daemon.pid
            for session in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(session), signal.SIGKILL)

    def _await(self) -> None:
        assert self._daemon is not None
        give_up = time.monotonic() + _DEADLINE_S
        while self._daemon.poll() is None and time.monotonic() < give_up:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    if connection.recv(4) == b"SSH-":
                        return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"no sshd: {(self._folder / 'log').read_text()}")

    def data(self, user: str = "root", **more: Any) -> dict[str, Any]:
        """What an inventory says of this host, its key checked strictly."""
        return {
            "ssh_hostname": "127.0.0.1",
            "ssh_port": self.port,
            "ssh_user": user,
            "ssh_key": str(self._folder / "user"),
            "ssh_known_hosts_file": str(self._folder / "known_hosts"),
            "ssh_connect_retries": 0,
            **more,
        }

    def inside(self, argv: Sequence[str | Path]) -> list[str]:
        """A command, put so that root runs it on the host without SSH."""
        assert self._daemon is not None
        return ["nsenter", f"--mount=/proc/{self._daemon.pid}/ns/mnt", "--", *map(str, argv)]

    def names_in(self, folder: str) -> list[str]:
        """What there is in a directory of the host's."""
        assert self._daemon is not None
        return sorted(path.name for path in Path(f"/proc/{self._daemon.pid}/root{folder}").iterdir())
