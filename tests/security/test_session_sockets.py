"""A sandbox that is shown where sandboxes are kept reaches none of them by its sockets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.conftest import User
from tests.e2e.commands import MXC_OPS, Commands

pytestmark = [
    pytest.mark.backend("bubblewrap"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the caller is a user whose home is made for the test"),
]

ATTACK = """
import json, os, socket, sys
os.chdir(sys.argv[1])
order = json.dumps({"do": "run", "args": sys.argv[2:], "env": [], "cwd": "/"}).encode() + b"\\n"
hello = bytes.fromhex("080000000100000000000000" "4d435841" "01000000")
for name, said in (("control", order), ("agent", hello), ("copy", b"")):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(name)
    try:
        sock.sendall(said)
        print(name, len(sock.recv(4096)), flush=True)
    except OSError:
        print(name, 0, flush=True)
"""


@pytest.fixture(scope="module")
def unprivileged(as_user: User) -> Iterator[Commands]:
    made = Commands("user", as_user)
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


def test_what_may_only_read_the_home_gives_no_orders(unprivileged: Commands) -> None:
    home, written = unprivileged.home, unprivileged.home / "written"
    words = ("session", "provision", "--backend", "bubblewrap", "--rw", home)
    sandbox = unprivileged.run(MXC_OPS, *words).stdout.strip()
    try:
        assert unprivileged.run(MXC_OPS, "session", "start", sandbox).returncode == 0
        folder = home / ".local/state/mxc-ops/run/sessions" / sandbox.partition(":")[2]
        attack = ("python3", "-c", ATTACK, folder, "touch", written)
        done = unprivileged.run(MXC_OPS, "run", "--backend", "bubblewrap", "--ro", home, "--", *attack)
        assert done.stdout == "control 0\nagent 0\ncopy 0\n", done.stderr
        assert not written.exists()
        still = unprivileged.run(MXC_OPS, "session", "exec", sandbox, "--", "touch", written)
        assert still.returncode == 0 and written.exists()
    finally:
        unprivileged.run(MXC_OPS, "session", "deprovision", sandbox)
