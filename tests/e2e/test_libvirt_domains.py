"""Persistent machines at a real libvirtd, started by hand in namespaces of its own, QEMU by TCG.

Its QEMU runs as Debian sets it up: as a user of its own, with leave to change the owner of files.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.errors import BackendUnavailable
from backends.virtual_machine import Image
from tests.domains import TCG_ONLY
from tests.prep.libvirt_host import VmHost, missing, vm_host
from vm_images.store import find_image

pytestmark = [pytest.mark.backend("vm"), pytest.mark.skipif(bool(missing()), reason=missing())]

KINDS = pytest.mark.parametrize("name", ["microvm", "q35"])
# Control groups and mount namespaces are off as in `vm_host`.
_START = (
    TCG_ONLY
    + r"""
sed -i -e 's/^user = .*/user = "libvirt-qemu"/' -e 's/^group = .*/group = "libvirt-qemu"/' \
    -e 's/^\(dynamic_ownership\|remember_owner\) = 0/\1 = 1/' /etc/libvirt/qemu.conf
virtlogd -d
libvirtd -d
"""
)


class Machines:
    """A host with libvirt, to which each step comes as another process."""

    def __init__(self, host: VmHost, image: Image, checkout: Path) -> None:
        self.host = host
        self.image = image
        self._checkout = checkout
        self._line = f"{image.command_line} tsc_early_khz={tsc_khz()}"

    def __call__(self, step: str, name: str = "", **asked: Any) -> Any:
        done = self.host.try_run(self._command(step, {"name": name, **asked}))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def killed(self, step: str, name: str) -> None:
        assert self.host.try_run(self._command(step, {"name": name})).returncode == 128 + 9

    def start(self, name: str, kind: str) -> None:
        paths = {"kernel": self.image.kernel, "initrd": self.image.initrd}
        assert self("start", name, kind=kind, line=self._line, paths=paths) is None

    def _command(self, step: str, asked: dict[str, Any]) -> str:
        words = [sys.executable, "-m", "tests.e2e.libvirt_client", step, json.dumps(asked)]
        return f"cd {shlex.quote(str(self._checkout))} && {shlex.join(words)}"


def tsc_khz() -> int:
    """Without it a microvm hangs in one boot of ten (it has no timer to measure the rate with)."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return round(float(next(line for line in lines if line.startswith("cpu MHz")).split(":")[1])) * 1000


def tiny() -> Image:
    try:
        return find_image("tiny")
    except BackendUnavailable:
        subprocess.run([Path(sys.executable).with_name("mxc-ops"), "image", "build", "tiny"], check=True)
        return find_image("tiny")


def bring(image: Image, root: str) -> None:
    """Into the store of a host that does not see ours."""
    folder = Path(image.kernel).parent
    inside = Path(f"{root}{folder}")
    shutil.copytree(folder, inside)
    (inside.parent / "names").mkdir()
    (inside.parent / "names" / image.name).symlink_to(f"../{image.key}")


@pytest.fixture(scope="module")
def machines(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    image = tiny()
    with vm_host(tmp_path_factory.mktemp("host")) as host:
        host.run(_START)
        bring(image, f"/proc/{host.process}/root")
        made = Machines(host, image, checkout)
        for kind in ("microvm", "q35"):
            made.start(kind, kind)
        yield made


@KINDS
def test_each_process_finds_the_same_machine_again(machines: Machines, name: str) -> None:
    first = machines("run", name, line="echo here >/tmp/mark; hostname; cat /etc/machine-id; id -u")
    uuid, state = machines("domains")[name]
    assert state == "RUNNING"
    assert first == {"status": 0, "said": f"{name}\n{uuid.replace('-', '')}\n1000\n"}
    again = machines("run", name, line="cat /tmp/mark /etc/machine-id; exit 3")
    assert again == {"status": 3 << 8, "said": f"here\n{uuid.replace('-', '')}\n"}


@KINDS
def test_what_a_killed_owner_left_in_the_channel_harms_nobody(machines: Machines, name: str) -> None:
    machines.killed("die_in_a_flood", name)
    assert machines("run", name, line="pidof yes") == {"status": 1 << 8, "said": ""}


@KINDS
def test_each_of_many_connections_is_answered(machines: Machines, name: str, soak: bool) -> None:
    """Regression: the agent slept when a greeting came before the word that its port is open."""
    assert machines("come_and_go", name, times=200 if soak else 20) is None


def test_one_process_at_a_time_talks_to_an_agent(machines: Machines) -> None:
    told = machines("attach_twice", "microvm")
    assert told["error"] == "agent_taken"
    assert machines("run", "microvm", line="echo free")["said"] == "free\n"


def test_the_image_stays_roots_and_qemu_is_not_root(machines: Machines) -> None:
    parts = f"{machines.image.kernel} {machines.image.initrd}"
    assert machines.host.run(f"stat -c '%U %a' {parts}") == "root 644\n" * 2
    assert machines.host.run("ps -C qemu-system-x86_64 -o user:20=").split() == ["libvirt-qemu"] * 2


def test_machines_live_on_while_libvirt_is_restarted(machines: Machines) -> None:
    machines("run", "q35", line="echo before >/tmp/restart")
    machines.host.run("kill $(cat /run/libvirtd.pid); while [ -e /run/libvirtd.pid ]; do sleep 0.05; done")
    gone = machines("domains")
    assert gone["error"] == "libvirt_unreachable"
    machines.host.run("libvirtd -d")
    assert machines("run", "q35", line="cat /tmp/restart")["said"] == "before\n"


def test_a_libvirt_that_is_stopped_is_given_up_in_time(machines: Machines) -> None:
    machines.host.run("kill -STOP $(cat /run/libvirtd.pid)")
    try:
        assert machines("domains", deadline_s=0.5)["error"] == "libvirt_silent"
    finally:
        machines.host.run("kill -CONT $(cat /run/libvirtd.pid)")
    assert set(machines("domains")) == {"microvm", "q35"}


@KINDS
def test_a_guest_ends_its_machine_and_libvirt_keeps_it(machines: Machines, name: str) -> None:
    assert machines("power_off", name) == "OFF"
    assert machines("run", name, line="true")["error"] == "domain_off"
    assert machines("end", name) is None
    assert name not in machines("domains")


@KINDS
def test_nothing_is_left_of_a_machine_that_was_taken_away(machines: Machines, name: str) -> None:
    traces = (
        "find /run/libvirt/qemu /var/lib/libvirt/qemu /etc/libvirt/qemu -name '*gone*';"
        " ps -C qemu-system-x86_64 -o args= | grep guest=gone || true"
    )
    machines.start(f"gone-{name}", name)
    assert "gone" in machines.host.run(traces)
    assert machines("end", f"gone-{name}") is None
    assert machines.host.run(traces) == ""


def test_the_example_of_the_docs_runs(machines: Machines, checkout: Path) -> None:
    page = (checkout / "docs/libvirt.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    command = shlex.join(["env", f"PYTHONPATH={checkout}", sys.executable, "-c", example])
    assert machines.host.run(command) == "builder runs\n"
