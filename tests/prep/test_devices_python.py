"""Devices and Python environments on this host: seen with the facts' own commands, changed, changed back.

The host is seen through a mount namespace whose /etc is a layer in memory, so nothing here outlives a test.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mxc_ops.prep.decision import FORGET, Decision
from mxc_ops.prep.rules import rule

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: for devices and a namespace of mounts")
SETUP = """
set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/dev"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" overlay /etc
sed -i '/^testers:/d' /etc/group
echo ready
exec cat
"""


class Host:
    """Runs an operation's facts, its commands and its way back, in a namespace of mounts if one is given."""

    def __init__(self, enter: tuple[str, ...] = (), environment: Mapping[str, str] | None = None) -> None:
        self._enter = enter
        self._environment = {**os.environ, **(environment or {})}

    def sh(self, command: str) -> str:
        argv = [*self._enter, "sh", "-c", f"set -e; {command}"]
        done = subprocess.run(argv, capture_output=True, text=True, env=self._environment, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def decide(self, operation: str, **arguments: Any) -> Decision:
        kind = rule(operation)
        return kind.decide(*self._answers(operation, arguments), **arguments)

    def apply(self, operation: str, **arguments: Any) -> Decision:
        """Decide and carry out; `made` has what the rule measures as well."""
        decision = self.decide(operation, **arguments)
        assert not decision.refusal, decision.refusal
        for command in decision.commands:
            self.sh(command)
        made = dict(decision.made)
        for name, command in rule(operation).measured(**arguments).items():
            made[name] = sorted({*made.get(name, []), *self.sh(command).splitlines()})
        return Decision(decision.before, decision.after, decision.commands, prior=decision.prior, made=made)

    def reverse(self, operation: str, record: Decision, **arguments: Any) -> Decision:
        answers = self._answers(operation, arguments)
        return rule(operation).reverse(*answers, prior=record.prior, made=record.made, **arguments)

    def take_back(self, operation: str, record: Decision, **arguments: Any) -> None:
        for command in self.reverse(operation, record, **arguments).commands:
            self.sh(command)

    def _answers(self, operation: str, arguments: Mapping[str, Any]) -> list[Any]:
        found: list[Any] = []
        for query in rule(operation).queries(**arguments):
            area, _, name = query.fact.partition(".")
            fact = getattr(import_module(f"mxc_ops.prep.facts.{area}"), name)()
            lines = self.sh(f"( {fact.command(**query.arguments)} ) 2>/dev/null").splitlines()
            found.append(fact.process(lines) if lines else fact.default())
        return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SETUP, "sh", str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "ready\n"
        yield Host(("nsenter", "--mount", "--target", str(holder.pid), "--"))
        holder.stdin.close()


DEVICE = "devices.accessible"


@pytest.fixture
def device(host: Host, tmp_path: Path) -> dict[str, str]:
    """A node for the null device, for root only; the group that is to open it does not exist yet."""
    host.sh(f"mknod -m 600 {tmp_path}/dev/kvm c 1 3")
    return {"path": f"{tmp_path}/dev/kvm", "group": "testers"}


def rights(host: Host, device: Mapping[str, str]) -> str:
    return host.sh(f"stat -c '%G %a' {device['path']}").strip()


def with_udev(host: Host) -> Host:
    """The same host with a program by the name of udev's on the search path."""
    host.sh("mkdir -p /etc/bin && printf '#!/bin/sh\\n' > /etc/bin/udevadm && chmod 755 /etc/bin/udevadm")
    return Host(host._enter, {"PATH": f"/etc/bin:{os.environ['PATH']}"})  # pyright: ignore[reportPrivateUsage]


@needs_root
def test_a_device_is_opened_to_a_group_that_is_made_for_it_and_closed_again(
    host: Host, device: dict[str, str]
) -> None:
    groups = host.sh("cat /etc/group")
    record = host.apply(DEVICE, **device)
    assert rights(host, device) == "testers 660"
    assert not host.decide(DEVICE, **device).commands
    host.take_back(DEVICE, record, **device)
    assert rights(host, device) == "root 600"
    assert host.sh("cat /etc/group") == groups
    assert not host.reverse(DEVICE, record, **device).commands


@needs_root
def test_a_rule_of_udevs_keeps_it_and_goes_again(host: Host, device: dict[str, str]) -> None:
    udev = with_udev(host)
    before = host.sh("find /etc/udev 2>/dev/null || true")
    record = udev.apply(DEVICE, **device)
    kept = host.sh("cat /etc/udev/rules.d/90-mxc-ops-kvm.rules")
    assert 'KERNEL=="kvm", GROUP="testers", MODE="0660"' in kept
    udev.take_back(DEVICE, record, **device)
    assert host.sh("find /etc/udev 2>/dev/null || true") == before


@needs_root
def test_a_rule_that_somebody_removed_is_drift_though_the_device_is_still_open(
    host: Host, device: dict[str, str]
) -> None:
    udev = with_udev(host)
    record = udev.apply(DEVICE, **device)
    host.sh("rm /etc/udev/rules.d/90-mxc-ops-kvm.rules")
    lost = udev.reverse(DEVICE, record, **device)
    assert "90-mxc-ops-kvm.rules is gone" in lost.refusal and lost.commands
    udev.take_back(DEVICE, record, **device)
    assert rights(host, device) == "root 600"


@needs_root
def test_a_device_for_everybody_belongs_to_no_other_group_than_before(
    host: Host, device: dict[str, str]
) -> None:
    everybody = {**device, "group": ""}
    record = host.apply(DEVICE, **everybody)
    assert rights(host, device) == "root 666"
    assert not host.decide(DEVICE, **everybody).commands
    host.take_back(DEVICE, record, **everybody)
    assert rights(host, device) == "root 600"


@needs_root
def test_a_group_that_was_there_stays_and_what_others_changed_is_named(
    host: Host, device: dict[str, str]
) -> None:
    host.sh("groupadd -r testers")
    record = host.apply(DEVICE, **device)
    host.sh(f"chmod 666 {device['path']}")
    back = host.reverse(DEVICE, record, **device)
    assert back.refusal == f"{device['path']} is now of group testers, mode 666"
    assert not any("groupdel" in command for command in back.commands)


@needs_root
def test_a_group_that_somebody_joined_since_is_not_taken_away_unasked(
    host: Host, device: dict[str, str]
) -> None:
    record = host.apply(DEVICE, **device)
    host.sh("usermod -aG testers daemon")
    assert host.reverse(DEVICE, record, **device).refusal == "daemon joined the group testers"


@needs_root
def test_a_device_that_is_gone_or_no_device_is_left_alone(host: Host, device: dict[str, str]) -> None:
    host.sh(f"rm {device['path']}")
    assert not host.decide(DEVICE, **device).commands
    host.sh(f"touch {device['path']}")
    assert host.decide(DEVICE, **device).refusal.endswith("is a file")


@needs_root
@pytest.mark.backend("microvm")
def test_kvm_is_judged_by_a_guest_as_the_backend_judges_it(host: Host) -> None:
    from backends.qemu.accelerator import find_qemu, machine_type, try_accelerator

    qemu = find_qemu()
    if qemu is None:
        pytest.skip("needs QEMU: apt-get install qemu-system-x86")
    if not Path("/dev/kvm").exists():
        pytest.skip("needs /dev/kvm")
    decision = host.decide(DEVICE, path="/dev/kvm", group="kvm")
    verdict = try_accelerator(qemu, "kvm", machine=machine_type(qemu))
    assert ("no guest boots with it" in decision.before) is not verdict.works
    assert "left alone if" not in decision.notice


ENVIRONMENT = "python.environment"
WHEEL = """\
Wheel-Version: 1.0
Generator: test
Root-Is-Purelib: true
Tag: py3-none-any
"""


def make_wheel(folder: Path, name: str, version: str) -> None:
    """A package with one module, as an index would have it (PEP 427)."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n",
        f"{info}/WHEEL": WHEEL,
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def offline(tmp_path: Path) -> Host:
    """This host with a folder as its only package index."""
    index = tmp_path / "index"
    index.mkdir()
    for name, version in (("mxc_first", "1.0"), ("mxc_first", "2.0"), ("mxc_second", "1.5")):
        make_wheel(index, name, version)
    return Host(environment={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)})


@pytest.fixture
def wanted(tmp_path: Path) -> dict[str, Any]:
    return {"environment": f"{tmp_path}/made for/it", "requirements": ["mxc-first==1.0", "mxc_second==1.5"]}


def test_an_environment_is_made_once_mended_and_taken_away(
    offline: Host, wanted: dict[str, Any], tmp_path: Path
) -> None:
    environment = Path(wanted["environment"])
    record = offline.apply(ENVIRONMENT, **wanted)
    assert offline.sh(f"'{environment}/bin/python3' -c 'import mxc_first, mxc_second; print(1)'") == "1\n"
    assert not offline.decide(ENVIRONMENT, **wanted).commands

    newer = {**wanted, "requirements": ["mxc-first==2.0", "mxc_second==1.5"]}
    assert offline.decide(ENVIRONMENT, **newer).before == "without mxc-first==2.0"
    offline.sh(f"'{environment}/bin/python3' -m pip uninstall -qy mxc-second; rm '{environment}/bin/python3'")
    offline.apply(ENVIRONMENT, **wanted)
    assert not offline.decide(ENVIRONMENT, **wanted).commands

    offline.sh(f"'{environment}/bin/python3' -m pip install -q mxc-first==2.0")
    back = offline.reverse(ENVIRONMENT, record, **wanted)
    assert back.refusal == f"somebody has put mxc-first==2.0 into {environment}"
    offline.sh(f"'{environment}/bin/python3' -m pip install -q mxc-first==1.0")
    offline.take_back(ENVIRONMENT, record, **wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert not offline.reverse(ENVIRONMENT, record, **wanted).commands


def test_a_wheel_that_is_not_the_one_that_was_meant_is_not_installed(
    offline: Host, wanted: dict[str, Any], tmp_path: Path
) -> None:
    wheels = {
        name: tmp_path / f"index/{name}-py3-none-any.whl" for name in ("mxc_first-1.0", "mxc_second-1.5")
    }
    sums = [hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels.values()]
    pinned = {
        **wanted,
        "checksums": {text: [one] for text, one in zip(wanted["requirements"], sums, strict=True)},
    }
    with wheels["mxc_first-1.0"].open("ab") as wheel:
        wheel.write(b"\0")
    with pytest.raises(AssertionError, match="DO NOT MATCH THE HASHES"):
        offline.apply(ENVIRONMENT, **pinned)
    assert offline.decide(ENVIRONMENT, **pinned).before == "without mxc-first==1.0 mxc_second==1.5"
    make_wheel(tmp_path / "index", "mxc_first", "1.0")
    pinned["checksums"]["mxc-first==1.0"].append(
        hashlib.sha256(wheels["mxc_first-1.0"].read_bytes()).hexdigest()
    )
    offline.apply(ENVIRONMENT, **pinned)
    assert not offline.decide(ENVIRONMENT, **pinned).commands


def test_an_environment_that_was_only_begun_is_ours_to_finish(offline: Host, wanted: dict[str, Any]) -> None:
    """As after a controller or a host that died in between."""
    environment = Path(wanted["environment"])
    (environment / "bin").mkdir(parents=True)
    (environment / ".mxc-ops").touch()
    decision = offline.decide(ENVIRONMENT, **wanted)
    assert decision.commands and not decision.refusal


def test_a_removal_that_was_killed_halfway_is_ours_to_finish(offline: Host, wanted: dict[str, Any]) -> None:
    environment = Path(wanted["environment"])
    record = offline.apply(ENVIRONMENT, **wanted)
    first, *_ = offline.reverse(ENVIRONMENT, record, **wanted).commands
    offline.sh(first)
    assert [path.name for path in environment.iterdir()] == [".mxc-ops"]
    assert offline.decide(ENVIRONMENT, **wanted).commands
    offline.take_back(ENVIRONMENT, record, **wanted)
    assert not environment.parent.exists()


@pytest.mark.parametrize("kind", ["environment", "file", "link"])
def test_what_was_there_before_us_is_neither_changed_nor_run_nor_removed(
    offline: Host, wanted: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    environment = Path(wanted["environment"])
    environment.parent.mkdir()
    if kind == "environment":
        (environment / "bin").mkdir(parents=True)
        (environment / "pyvenv.cfg").touch()
        (environment / "bin/python3").write_text(f"#!/bin/sh\ntouch {tmp_path}/run\n")
        (environment / "bin/python3").chmod(0o755)
    elif kind == "file":
        environment.touch()
    else:
        environment.symlink_to(tmp_path / "nowhere")
    decision = offline.decide(ENVIRONMENT, **wanted)
    assert decision.refusal and not decision.commands
    back = offline.reverse(ENVIRONMENT, decision, **wanted)
    assert back.refusal and back.commands == (FORGET,)
    assert not (tmp_path / "run").exists()


def test_an_environment_that_others_may_write_to_is_not_run(
    offline: Host, wanted: dict[str, Any], tmp_path: Path
) -> None:
    environment = Path(wanted["environment"])
    (environment / "bin").mkdir(parents=True)
    (environment / ".mxc-ops").touch()
    (environment / "bin/python3").write_text(f"#!/bin/sh\ntouch {tmp_path}/run\n")
    (environment / "bin/python3").chmod(0o755)
    environment.chmod(0o777)
    assert offline.decide(ENVIRONMENT, **wanted).refusal
    assert not (tmp_path / "run").exists()
