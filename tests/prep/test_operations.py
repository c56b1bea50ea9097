"""Kinds of changes through pyinfra alone, as a person's own deploy has them, with and without a record."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from backends.inside.store import PROGRAMS, source_key
from backends.linux.uid_range import UidRange, configured_range
from mxc_ops.prep.engine.applying import operation_named
from mxc_ops.prep.rules import AREAS, rule
from tests.conftest import CHECKOUT
from tests.prep.private_host import PrivateHost, missing

ITEM = "test.item"
needs_a_host = pytest.mark.skipif(bool(missing()), reason=missing())


# --- what there is


def _operations() -> list[str]:
    return [f"{area}.{name}" for area in AREAS for name in import_module(f"mxc_ops.prep.rules.{area}").RULES]


@pytest.mark.parametrize("name", _operations())
def test_every_rule_has_an_operation_with_its_arguments_and_an_item(name: str) -> None:
    function = vars(operation_named(name))["_inner"]
    parameters = inspect.signature(function).parameters
    assert parameters["item"].default == ""
    wanted = inspect.signature(rule(name).decide).parameters.values()
    by_name = {parameter.name for parameter in wanted if parameter.kind is parameter.KEYWORD_ONLY}
    assert by_name == set(parameters) - {"item"}


# --- what they do

SWITCHED_ON = {"switch": "kernel.apparmor_restrict_unprivileged_userns", "program": "/opt/x"}


@dataclass(frozen=True)
class Case:
    """An operation that has something to do, and how it is seen that it is done, and that it is undone again.

    Parameters
    ----------
    undone: "" where that is simply not done.
    """

    operation: str
    arguments: Mapping[str, Any]
    done: str
    undone: str = ""
    before: str = "true"


TEXT = 'it\'s "$HOME" `id` \\n %s\n\ttab ☃\n'
_FORWARDS = "grep -qx 1 /proc/sys/net/ipv4/ip_forward"
CASES = {
    "package": Case(
        "packages.installed",
        {"packages": ["libc-bin", "bubblewrap"]},
        "dpkg-query -W -f='${db:Status-Status}' bubblewrap | grep -qx installed",
    ),
    "directory": Case(
        "files.root_directory",
        {"path": "/srv/it's new/a b"},
        "test \"$(stat -c %a:%u '/srv/it'\\''s new/a b')\" = 755:0",
    ),
    "text": Case(
        "files.text",
        {"path": "/etc/mxc test/x.conf", "content": TEXT},
        f"printf %s {quote(TEXT)} | cmp -s - '/etc/mxc test/x.conf'",
    ),
    "text-replaced": Case(
        "files.text",
        {"path": "/etc/mxc.conf", "content": "new\n"},
        'test "$(cat /etc/mxc.conf; stat -c %a /etc/mxc.conf)" = "$(printf \'new\\n640\')"',
        "grep -qx old /etc/mxc.conf",
        before="echo old > /etc/mxc.conf; chmod 640 /etc/mxc.conf",
    ),
    **{
        f"{program.name}-built": Case(
            "helpers.built",
            {"store": f"/opt/{program.name}s", "key": key, "program": program.name, "machine": "x86_64"},
            f"test $(/opt/{program.name}s/{key}/{program.name} --version) = {key}",
            before=f"mkdir /opt/{program.name}s",
        )
        for program in PROGRAMS.values()
        for key in [source_key(program)]
    },
    "helper-pushed": Case(
        "helpers.pushed",
        {
            "store": "/opt/brought",
            "key": "k1",
            "program": "p",
            "source": "/run/program",
            "sha256": "@the program's@",
        },
        "test $(/opt/brought/k1/p --version) = k1",
        before="mkdir /opt/brought; printf '#!/bin/sh\\necho k1\\n' > /run/program",
    ),
    "helper-pushed-over-another": Case(
        "helpers.pushed",
        {
            "store": "/opt/shared",
            "key": "k1",
            "program": "p",
            "source": "/run/ours",
            "sha256": "@the program's@",
        },
        "cmp -s /opt/shared/k1/p /run/ours",
        "cmp -s /opt/shared/k1/p /run/theirs",
        before="mkdir -p /opt/shared/k1; printf '#!/bin/sh\\necho k1\\n' > /run/ours;"
        " echo theirs > /run/theirs; cp -p /run/theirs /opt/shared/k1/p",
    ),
    "ids": Case(
        "ids.recorded_range",
        {"path": "/etc/it's new/host.json", "wanted": "1900000000:16"},
        "grep -q 1900000000 '/etc/it'\\''s new/host.json'",
    ),
    "subordinate-ids": Case(
        "ids.subordinate",
        {"user": "games", "count": 65536},
        "grep -q '^games:' /etc/subuid && grep -q '^games:' /etc/subgid",
    ),
    "setting": Case(
        "kernel.setting",
        {"key": "kernel.unprivileged_userns_clone", "wanted": "1"},
        "grep -qx 1 /proc/sys/kernel/unprivileged_userns_clone"
        " && grep -q '= 1' /etc/sysctl.d/zz-mxc-ops-kernel.unprivileged_userns_clone.conf",
        "grep -qx 0 /proc/sys/kernel/unprivileged_userns_clone"
        " && test ! -e /etc/sysctl.d/zz-mxc-ops-kernel.unprivileged_userns_clone.conf",
    ),
    "setting-right-by-chance": Case(
        "kernel.setting",
        {"key": "net.ipv4.ip_forward", "wanted": "1", "kernel_default": "0"},
        f"{_FORWARDS} && grep -q '= 1' /etc/sysctl.d/zz-mxc-ops-net.ipv4.ip_forward.conf",
        f"{_FORWARDS} && test ! -e /etc/sysctl.d/zz-mxc-ops-net.ipv4.ip_forward.conf",
        before="echo 1 > /run/forward; mount --bind /run/forward /proc/sys/net/ipv4/ip_forward;"
        " mkdir -p /etc/sysctl.d; echo 'net/ipv4/ip_forward=0' > /etc/sysctl.d/10-theirs.conf",
    ),
    "profile": Case(
        "apparmor.profile",
        {**SWITCHED_ON, "path": "/etc/apparmor.d/mxc-test"},
        "grep -q 'profile mxc-test /opt/x' /etc/apparmor.d/mxc-test"
        " && grep -qx -- '-r /etc/apparmor.d/mxc-test' /run/apparmor.log",
        "test ! -e /etc/apparmor.d/mxc-test && grep -q -- '-R' /run/apparmor.log",
    ),
}
MODULE = Case(
    "kernel.module",
    {"module": "mxc_test"},
    "grep -q '^mxc_test ' /proc/modules && test -e /etc/modules-load.d/mxc-ops-mxc_test.conf",
    "! grep -q mxc_test /proc/modules && test ! -e /etc/modules-load.d/mxc-ops-mxc_test.conf",
)
HAS_MODULES = Path("/proc/modules").exists()
needs_modules = pytest.mark.skipif(not HAS_MODULES, reason="this kernel has no modules")
# A module that can be loaded, by a modprobe that only takes note.
_OTHER_MODULES = r"""
mkdir -p /usr/lib/modules/$(uname -r)
echo 'kernel/mxc_test.ko:' >> /usr/lib/modules/$(uname -r)/modules.dep
cat /proc/modules > /run/modules
mount --bind /run/modules /proc/modules
printf '#!/bin/sh\necho "$1 1" >> /run/modules\n' > /usr/sbin/modprobe
cat > /usr/sbin/rmmod <<'END'
#!/bin/sh
grep -v "^$1 " /run/modules > /run/left; cat /run/left > /run/modules
END
chmod 755 /usr/sbin/modprobe /usr/sbin/rmmod
"""


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    with PrivateHost() as made:
        made.change_kernel()
        made.empty("/srv")
        made.empty("/opt")
        if HAS_MODULES:
            made.sh(_OTHER_MODULES)
        yield made


def drive(host: PrivateHost, *steps: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Carry steps out; see `tests.prep.drive`."""
    done = subprocess.run(
        host.inside(["env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-m", "tests.prep.drive"]),
        input=json.dumps(steps),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def holds(host: PrivateHost, command: str) -> bool:
    return subprocess.run(host.inside(["sh", "-c", command]), capture_output=True).returncode == 0


@needs_a_host
@pytest.mark.parametrize("name", [*CASES, pytest.param("module", marks=needs_modules)])
def test_it_is_done_once_and_taken_back_where_it_was_recorded(host: PrivateHost, name: str) -> None:
    case = MODULE if name == "module" else CASES[name]
    host.sh(case.before)
    arguments = dict(case.arguments)
    if "source" in arguments:
        arguments["sha256"] = host.sh(f"sha256sum < {arguments['source']}").split()[0]
    step = {"operation": case.operation, "arguments": {**arguments, "item": ITEM}}
    unrecorded = {"operation": case.operation, "arguments": arguments}
    before = host.differences()
    undone = case.undone or f"! {{ {case.done}; }}"
    assert not holds(host, case.done)

    first, second = drive(host, step, step)
    assert (first["failed"], first["changed"]) == (False, True), first["said"]
    assert (second["failed"], second["changed"]) == (False, False), second["said"]
    assert holds(host, case.done)
    assert host.receipts()[ITEM]["operation"] == case.operation
    assert host.receipts()[ITEM]["state"] == "complete"

    (back,) = drive(host, {"reverse": ITEM, "insist": False})
    assert (back["failed"], back["changed"]) == (False, True), back["said"]
    assert holds(host, undone)
    assert host.receipts() == {}
    # The engine does, once it lets the host go.
    host.sh("rmdir /var/lib/mxc-ops/receipts /var/lib/mxc-ops/lock /var/lib/mxc-ops")
    assert host.differences() == before

    first, second = drive(host, unrecorded, unrecorded)
    assert (first["failed"], first["changed"]) == (False, True), first["said"]
    assert (second["failed"], second["changed"]) == (False, False), second["said"]
    assert holds(host, case.done)
    assert not host.seen("/var/lib/mxc-ops").exists()


@needs_a_host
def test_what_it_was_at_first_is_remembered_over_repeated_changes(host: PrivateHost) -> None:
    path = "/etc/mxc-repeated.conf"
    host.sh(f"echo mine > {path}")

    def wanted(content: str) -> dict[str, Any]:
        return {"operation": "files.text", "arguments": {"path": path, "content": content, "item": ITEM}}

    assert [step["changed"] for step in drive(host, wanted("one\n"), wanted("two\n"))] == [True, True]
    (back,) = drive(host, {"reverse": ITEM, "insist": False})
    assert back["changed"], back["said"]
    assert host.seen(path).read_text() == "mine\n"


@needs_a_host
def test_a_refusal_is_an_error_with_its_fix_and_nothing_is_done(host: PrivateHost) -> None:
    host.sh("mkdir -p -m 777 /srv/open; mkdir -p /etc/refused")
    refused = drive(
        host,
        {"operation": "files.root_directory", "arguments": {"path": "/srv/open", "item": ITEM}},
        {"operation": "ids.recorded_range", "arguments": {"path": "/etc/refused/h.json", "wanted": "0:10"}},
    )
    assert all(step["failed"] and not step["changed"] for step in refused)
    assert "rm -r /srv/open" in refused[0]["said"]
    assert "/etc/passwd gives root 0" in refused[1]["said"]
    assert holds(host, "test ! -e /etc/refused/h.json && test $(stat -c %a /srv/open) = 777")
    assert ITEM not in host.receipts()


@needs_a_host
def test_a_record_that_cannot_be_understood_is_not_written_over(host: PrivateHost) -> None:
    host.sh(f"mkdir -p /var/lib/mxc-ops/receipts; echo broken > /var/lib/mxc-ops/receipts/{ITEM}.json")
    step = {"operation": "files.text", "arguments": {"path": "/etc/mxc-never", "content": "x", "item": ITEM}}
    (refused,) = drive(host, step)
    assert refused["failed"]
    assert f"rm /var/lib/mxc-ops/receipts/{ITEM}.json" in refused["said"]
    assert holds(host, f"grep -qx broken /var/lib/mxc-ops/receipts/{ITEM}.json && test ! -e /etc/mxc-never")
    host.sh("rm -r /var/lib/mxc-ops")


@needs_a_host
@pytest.mark.parametrize("item", ["", ITEM])
def test_what_hangs_is_killed_with_all_that_it_started_and_told(host: PrivateHost, item: str) -> None:
    (hung,) = drive(host, {"operation": "kernel.hang", "arguments": {"note": "/run/hung", "item": item}})
    assert hung["failed"]
    assert "killed after 1 s" in hung["said"]
    process = Path("/proc") / host.seen("/run/hung").read_text().strip() / "status"
    give_up = time.monotonic() + 10
    while process.exists() and "\nState:\tZ" not in process.read_text():
        assert time.monotonic() < give_up, "it lives on"
        time.sleep(0.02)
    host.sh("rm -rf /var/lib/mxc-ops")


@needs_a_host
def test_a_range_is_read_by_the_backend_as_it_was_recorded(host: PrivateHost, tmp_path: Path) -> None:
    path = "/etc/mxc-range/host.json"
    step = {"operation": "ids.recorded_range", "arguments": {"path": path, "wanted": "1900000000:4096"}}
    assert drive(host, step)[0]["changed"]
    (tmp_path / "host.json").write_bytes(host.seen(path).read_bytes())
    assert configured_range(str(tmp_path / "host.json")) == UidRange(1900000000, 4096)
