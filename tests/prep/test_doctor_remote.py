"""`mxc-ops doctor --inventory`: hosts that are reached by SSH, and one by chroot, as they really are."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import wait_until
from tests.fleet.fleet import NO_SUDO, PASSWORD_SUDO, Fleet, Machine
from tests.fleet.fleet import missing as no_fleet
from tests.fleet.image import package_source
from tests.fleet.inventory import Group, write_inventory
from tests.prep.loopback import USER, Sshd, missing

pytestmark = [pytest.mark.backend("bubblewrap"), pytest.mark.skipif(bool(missing()), reason=missing())]

# By exit code. Whether there are warnings depends on the machine.
READY = {0: "ready", 2: "ready with warnings"}
READY_ENDS = tuple(f"): {state}" for state in READY.values())
MXC_OPS = str(Path(sys.executable).with_name("mxc-ops"))
REPLACE_PYTHON = """
for name in python3 python3.11 python3.12 python3.13 python3.14; do
    for path in "/usr/local/bin/$name" "/usr/bin/$name"; do
        if test -x "$path"; then mount --bind /run/instead "$(readlink -f "$path")"; fi
    done
done
"""
NO_PYTHON = f"touch /run/instead; {REPLACE_PYTHON}"
OLD_PYTHON = f"""
printf '#!/bin/sh\\ntest "$1" = -V && echo Python 3.9.2 || exit 1\\n' > /run/instead
chmod 755 /run/instead
{REPLACE_PYTHON}
"""
NO_LAUNCHER = "mount -t tmpfs tmpfs /usr/local/lib/mxc-ops"
# A Python that begins with the doctor when it is told to.
PATIENT_PYTHON = f"""
cp "$(readlink -f /usr/bin/python3)" /run/real
cat > /run/instead <<'END'
#!/bin/sh
if test "$1" = -P; then
    touch /run/ops/begun
    until test -e /run/ops/go; do sleep 0.02; done
fi
exec /run/real "$@"
END
chmod 755 /run/instead
{REPLACE_PYTHON}
"""
# A sudo that takes any password, gives no rights for it, and blurts it out; the doctor never gets to speak.
BLABBING_SUDO = r"""
mkdir /run/bin
cat > /run/bin/sudo <<'END'
#!/bin/sh
test "$1" = -S || exit 1
read -r password
echo "this is it: $password"
echo "this is it: $password" >&2
test "$2" = -k
END
chmod 755 /run/bin/sudo
mount --bind /run/bin /usr/local/bin
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Sshd]:
    """This machine, over SSH."""
    with Sshd() as running:
        yield running


def run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MXC_OPS, "doctor", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,  # so that passwords are not asked for on somebody's terminal
        env={**os.environ, "TERM": "xterm", "COLORTERM": "truecolor"},
    )


def inventory(folder: Path, hosts: Mapping[str, dict[str, Any]]) -> Path:
    path = folder / "inventory.py"
    path.write_text(f"hosts = {list(hosts.items())!r}\n")
    return path


def examined(path: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and each host of the answer by its name."""
    done = run("--inventory", path, "--json", *arguments)
    answer = json.loads(done.stdout)
    assert answer["schemaVersion"] == 1
    assert answer["exitCode"] == done.returncode
    assert all(set(host) == {"host", "state", "probes", "problem", "fix"} for host in answer["hosts"])
    return done.returncode, {host["host"]: host for host in answer["hosts"]}


def probes(host: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {probe["identifier"]: probe for probe in host["probes"]}


def steady(host: Mapping[str, Any], from_here: str = "") -> list[dict[str, str]]:
    """The probes without what differs: each sandbox's uid, how long a guest took, for which host a fix is."""
    return [
        {
            **probe,
            "seen": "" if ".sandbox." in name else re.sub(r"\d+ ms", "soon", probe["seen"]),
            "fix": probe["fix"].replace(from_here, ""),
        }
        for name, probe in probes(host).items()
    ]


def test_the_same_is_found_from_afar_as_on_the_host_itself(host: Sshd, tmp_path: Path) -> None:
    path = inventory(tmp_path, {"one": host.data()})
    code, hosts = examined(path)
    there = subprocess.run(
        host.inside([MXC_OPS, "doctor", "--json"]), capture_output=True, text=True, timeout=120
    )
    from_here = f" --inventory {path} --limit one"
    assert steady(hosts["one"], from_here) == steady(json.loads(there.stdout)), there.stderr
    assert (code, hosts["one"]["state"]) == (there.returncode, READY[code])
    assert probes(hosts["one"])["bubblewrap.sandbox.unprivileged"]["health"] == "ok"


def test_nothing_stays_on_the_host(host: Sshd, tmp_path: Path) -> None:
    examined(inventory(tmp_path, {"root": host.data(), "user": host.data(USER)}))
    assert host.names_in("/tmp") == []
    assert host.names_in("/run/ops") == []


def test_without_roots_rights_it_examines_as_whoever_it_is(host: Sshd, tmp_path: Path) -> None:
    code, hosts = examined(inventory(tmp_path, {"one": host.data(USER)}))
    found = probes(hosts["one"])
    assert found["bubblewrap.sandbox.caller"]["health"] == "ok", found
    assert found["bubblewrap.limits"]["health"] == "warning"
    assert (code, hosts["one"]["state"]) == (2, "ready with warnings")


def test_one_command_tells_each_host_as_it_is(host: Sshd, tmp_path: Path) -> None:
    with Sshd(NO_PYTHON) as bare, Sshd(OLD_PYTHON) as old, Sshd(NO_LAUNCHER) as broken:
        gone = host.data(ssh_port=1)
        data = {"one": host.data(), "bare": bare.data(), "old": old.data(), "broken": broken.data()}
        path = inventory(tmp_path, {**data, "gone": gone})
        code, hosts = examined(path)
        assert code == 1
        states = {name: entry["state"] for name, entry in hosts.items()}
        assert states.pop("one") in READY.values()
        assert states == {"bare": "failed", "old": "failed", "broken": "failed", "gone": "unreachable"}
        assert hosts["gone"]["probes"] == []
        assert hosts["gone"]["problem"]
        (python,) = hosts["bare"]["probes"]
        assert (python["identifier"], python["seen"]) == ("host.python", "there is no python3")
        install = f"pyinfra -y --limit bare {path} exec -- 'apt-get install -y python3'"
        assert (python["fix"], python["privilege"]) == (install, "root")
        (python,) = hosts["old"]["probes"]
        assert python["seen"].startswith("python3 is Python 3.9.2; ")
        launcher = probes(hosts["broken"])["bubblewrap.launcher"]
        assert launcher["fix"] == (
            f"mxc-ops prep host --inventory {path} --limit broken --backend bubblewrap --yes"
        )
        assert [server.names_in("/tmp") for server in (bare, old, broken)] == [[], [], []]


def test_people_get_a_table_for_each_host_and_a_summary(host: Sshd, tmp_path: Path) -> None:
    path = inventory(tmp_path, {"one": host.data(), "gone": host.data(ssh_port=1)})
    done = run("--inventory", path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("one (") and line.endswith(READY_ENDS) for line in lines)
    assert "gone: unreachable" in lines
    assert any(line.split()[:2] == ["bubblewrap.sandbox.root", "ok"] for line in lines)
    summary = [line.split() for line in lines[-3:]]
    assert summary[0] == ["host", "state", "ok", "warning", "failed"]
    assert summary[1][:2] == ["one", "ready"]
    assert summary[2] == ["gone", "unreachable", "0", "0", "0"]
    assert "\x1b" not in done.stdout


def test_what_takes_roots_rights_there_is_asked_for_from_here(host: Sshd, tmp_path: Path) -> None:
    """Not by our sudo, whose root has other keys, nor with that host's path of us."""
    path = inventory(tmp_path, {"one": host.data(USER, mxc_backends=["lxc"])})
    _, hosts = examined(path)
    assert probes(hosts["one"])["lxc.limits"]["fix"] == (
        f"mxc-ops doctor --inventory {path} --limit one --ask-sudo-password --backend lxc"
    )


def test_limit_and_exclude_choose_the_hosts(host: Sshd, tmp_path: Path) -> None:
    hosts = {name: host.data() for name in ("web-1", "web-2", "db-1")}
    _, found = examined(inventory(tmp_path, hosts), "--limit", "web-*", "--exclude", "web-1")
    assert list(found) == ["web-2"]


def test_the_inventory_names_the_backends_and_what_exists_elsewhere_is_said(
    host: Sshd, tmp_path: Path
) -> None:
    data = host.data(mxc_backends=["windows_sandbox", "bubblewrap"])
    code, hosts = examined(inventory(tmp_path, {"one": data}))
    found = probes(hosts["one"])
    assert code == 1
    assert found["windows_sandbox.platform"]["seen"].startswith("Windows Sandbox exists on Windows only, and")
    assert found["bubblewrap.sandbox.root"]["health"] == "ok"


def test_a_host_that_lacks_a_feature_that_is_asked_for_is_not_ready(tmp_path: Path) -> None:
    with Sshd("mount --bind /dev/null /usr/sbin/nft") as server:
        data = {"worker": server.data(mxc_features=["network"]), "other": server.data()}
        path = inventory(tmp_path, data)
        code, hosts = examined(path)
        assert (code, hosts["worker"]["state"]) == (1, "failed")
        network = probes(hosts["worker"])["bubblewrap.network.caller"]
        assert network["health"] == "failed"
        assert network["seen"].startswith("no nft")
        assert hosts["other"]["state"] in READY.values()
        assert probes(hosts["other"])["bubblewrap.network.caller"]["health"] == "ok"
        code, hosts = examined(path, "--limit", "other", "--feature", "network")
        assert (code, probes(hosts["other"])["bubblewrap.network.caller"]["health"]) == (1, "failed")


def test_users_whom_the_inventory_names_must_have_ids_of_their_own(tmp_path: Path) -> None:
    known = f"echo {USER}:100000:65536 > /run/ids; for name in subuid subgid; do"
    with Sshd(f"{known} mount --bind /run/ids /etc/$name; done") as server:
        data = server.data(mxc_features=["rootless"], mxc_users=[USER, "daemon"])
        path = inventory(tmp_path, {"one": data})
        code, hosts = examined(path)
        found = probes(hosts["one"])
        assert (code, found[f"bubblewrap.ids.users.{USER}"]["health"]) == (1, "ok")
        lacking = found["bubblewrap.ids.users.daemon"]
        assert (lacking["health"], lacking["privilege"]) == ("failed", "root")
        assert lacking["fix"] == (
            f"mxc-ops prep host --inventory {path} --limit one --backend bubblewrap --feature rootless --yes"
        )


def test_a_feature_that_nobody_knows_is_its_hosts_failure_or_a_wrong_command_line(
    host: Sshd, tmp_path: Path
) -> None:
    misspelt = inventory(tmp_path, {"one": host.data(mxc_features=["netwrok"])})
    done = run("--inventory", misspelt)
    assert done.returncode == 1
    assert "netwrok" in done.stdout
    done = run("--inventory", misspelt, "--feature", "teleport")
    assert (done.returncode, done.stdout) == (64, "")
    assert "'teleport'" in done.stderr


def test_a_password_is_shown_nowhere_even_if_the_host_blurts_it_out(tmp_path: Path) -> None:
    secret = "correct-horse"
    with Sshd(BLABBING_SUDO) as server:
        path = inventory(tmp_path, {"one": server.data(USER)})
        for form in ("--json", "--parallel=1"):
            done = run("--inventory", path, "--ask-sudo-password", form, stdin=f"{secret}\n")
            assert "host.doctor" in done.stdout, done.stderr
            assert "this is it: ***" in done.stdout
            assert secret not in done.stdout + done.stderr
        assert server.names_in("/tmp") == []


@pytest.mark.skipif(bool(no_fleet()), reason=no_fleet())
def test_roots_rights_are_used_where_sudo_gives_them(tmp_path: Path) -> None:
    machines = [Machine("free"), Machine("asks", sudo=PASSWORD_SUDO), Machine("never", sudo=NO_SUDO)]
    with Fleet(machines, package_source(["bubblewrap"])) as fleet:
        names = [machine.name for machine in machines]
        group = Group(names, {"mxc_backends": ["bubblewrap"]})
        path = write_inventory(tmp_path / "fleet.py", fleet, {"all": group})
        done = subprocess.run(
            fleet.command([MXC_OPS, "doctor", "--inventory", str(path), "--ask-sudo-password", "--json"]),
            input=f"{fleet.sudo_password}\n",
            capture_output=True,
            text=True,
            timeout=120,
            start_new_session=True,
        )
        found = {host["host"]: probes(host) for host in json.loads(done.stdout)["hosts"]}
        as_root = {name for name in names if "bubblewrap.sandbox.root" in found[name]}
        assert as_root == {"free", "asks"}, done.stderr
        assert "bubblewrap.sandbox.caller" in found["never"]
        needs_password = {
            name: "--ask-sudo-password" in found[name]["bubblewrap.launcher"]["fix"] for name in names
        }
        assert needs_password == {"free": False, "asks": True, "never": True}
        assert fleet.sudo_password not in done.stdout + done.stderr
        assert [fleet.inside(name, "ls -A /tmp") for name in names] == ["", "", ""]


def test_a_controller_that_is_killed_leaves_nothing_on_the_host(tmp_path: Path) -> None:
    with Sshd(PATIENT_PYTHON) as server:
        path = inventory(tmp_path, {"one": server.data()})
        command = [MXC_OPS, "doctor", "--inventory", str(path)]
        controller = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: "begun" in server.names_in("/run/ops"), "the doctor did not begin")
            assert server.names_in("/tmp") != []
            children = Path(f"/proc/{controller.pid}/task/{controller.pid}/children").read_text()
            for pid in map(int, children.split()):
                os.kill(pid, signal.SIGKILL)
        finally:
            controller.kill()
            controller.wait()
        subprocess.run(server.inside(["touch", "/run/ops/go"]), check=True)
        wait_until(lambda: server.names_in("/tmp") == [], "what was brought stayed there")


def test_a_root_of_busybox_without_python_is_told_what_to_install(tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is missing: apt-get install busybox-static")
    root = tmp_path / "root"
    for folder in ("bin", "etc", "tmp", "dev"):
        (root / folder).mkdir(parents=True)
    os.mknod(root / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    libraries = subprocess.run(["ldd", busybox], capture_output=True, text=True, check=False).stdout.split()
    for library in filter(lambda word: word.startswith("/"), libraries):
        target = root / library[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    shutil.copy(busybox, root / "bin/busybox")
    for applet in subprocess.run(
        [busybox, "--list"], capture_output=True, text=True, check=True
    ).stdout.split():
        if not (root / "bin" / applet).exists():
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/os-release").write_text("ID=alpine\nPRETTY_NAME=Alpine\n")
    name = f"@chroot/{root}"
    path = inventory(tmp_path, {name: {}})
    code, hosts = examined(path)
    ((_, told),) = hosts.items()
    (python,) = told["probes"]
    fix = f"pyinfra -y --limit {name} {path} exec -- 'apk add python3'"
    assert (code, python["identifier"], python["fix"]) == (1, "host.python", fix)
    assert list((root / "tmp").iterdir()) == []


def test_an_inventory_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    missing = run("--inventory", tmp_path / "missing.py", "--json")
    assert missing.returncode == 64
    assert "missing.py is not a file" in missing.stderr
    broken = tmp_path / "broken.py"
    broken.write_text("hosts = 1 / 0")
    done = run("--inventory", broken, "--json")
    assert done.returncode == 1
    assert "ZeroDivisionError" in json.loads(done.stdout)["error"]["problems"][0]["message"]
