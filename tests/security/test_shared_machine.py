"""Who may order containers in a shared machine, and what a damaged order does to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import UNPRIVILEGED_UID, User
from tests.container_archives import system
from tests.e2e.commands import MXC_OPS, Commands, processes_of
from tests.images import image
from vm_images.oci.importing import import_archive
from vm_images.oci.inventory import remove

pytestmark = [
    pytest.mark.backend("wslc"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the caller is a user whose home is made for the test"),
]

REFERENCE = "mxc-test/shared-attacked:1"
ATTACK = """
import json, os, socket, sys
os.chdir(sys.argv[1])
root = os.open(sys.argv[2], os.O_RDONLY)
order = {"hostname": "x", "fileSystem": "erofs", "flags": 0, "cgroup": [], "files": ["root"]}
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.settimeout(20)
sock.connect("socket")
try:
    socket.send_fds(sock, [json.dumps(order).encode()], [root])
    print(len(sock.recv(4096)), flush=True)
except OSError:
    print(0, flush=True)
"""


@pytest.fixture(scope="module")
def owner(as_user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    image("utility")
    archive = tmp_path_factory.mktemp("archive") / "root.tar"
    archive.write_bytes(system(Path("/bin/busybox").read_bytes()))
    import_archive(archive, REFERENCE)
    made = Commands("user", as_user)
    yield made
    for pid in processes_of(as_user.uid, b"backends.wslc.shared.host"):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(made.folder, ignore_errors=True)
    remove(REFERENCE)


def in_shared(owner: Commands, *command: str) -> str:
    flags = ("--backend", "wslc", "--image", REFERENCE, "--shared-vm")
    done = owner.run(MXC_OPS, "run", *flags, "--", *command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def place(owner: Commands) -> Path:
    (folder,) = (owner.home / ".local/state/mxc-ops/utility").iterdir()
    return folder


def test_what_may_only_read_the_home_orders_nothing(owner: Commands) -> None:
    assert in_shared(owner, "/bin/busybox", "echo", "runs") == "runs\n"
    seen = ("--ro", owner.home, "--ro", "/bin/busybox")
    words = ("python3", "-c", ATTACK, place(owner), "/bin/busybox")
    done = owner.run(MXC_OPS, "run", "--backend", "bubblewrap", *seen, "--", *words)
    assert done.stdout == "0\n", done.stderr
    assert in_shared(owner, "/bin/busybox", "echo", "still") == "still\n"


def test_another_user_does_not_even_see_it(owner: Commands) -> None:
    in_shared(owner, "/bin/busybox", "true")
    folder = place(owner)
    for path in (folder, folder.parent):
        assert path.stat().st_mode & 0o077 == 0


def test_what_is_no_order_ends_its_connection_and_nothing_else(owner: Commands, tmp_path: Path) -> None:
    zeros = (tmp_path / "zeros").open("w+b")
    zeros.truncate(1 << 20)
    in_shared(owner, "/bin/busybox", "true")
    connected = str(place(owner) / "socket")
    before = processes_of(UNPRIVILEGED_UID, b"backends.wslc.shared.host")
    good = {"hostname": "x", "fileSystem": "erofs", "flags": 0, "cgroup": [], "files": ["root"]}
    bad: list[tuple[str, object]] = [("files", 7), ("files", []), ("hostname", 5), ("flags", "x")]
    bad += [("cgroup", 3), ("fileSystem", "none")]
    orders = (
        *(b"", b"{", b"[]", b"{}", b"\xff" * 60000),
        *(json.dumps({**good, name: value}).encode() for name, value in bad),
    )
    for order in orders:
        for files in ((), (zeros.fileno(),), (0,), (0, 1, 2)):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(20)
                sock.connect(connected)
                socket.send_fds(sock, [order], files)
                sock.shutdown(socket.SHUT_WR)
                assert b"grants" not in sock.recv(65536)
    zeros.close()
    assert processes_of(UNPRIVILEGED_UID, b"backends.wslc.shared.host") == before, "it is the very same"
    assert in_shared(owner, "/bin/busybox", "echo", "still") == "still\n"
