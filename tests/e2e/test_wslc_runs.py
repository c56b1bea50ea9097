"""Containers of OCI images in machines of their own: what a run has of its image, what of its document."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mxc_ops import (
    BackendUnavailable,
    LaunchFailed,
    LimitOutcome,
    Limits,
    Outcome,
    Policy,
    PolicyRefused,
    Result,
    Session,
    WslcSettings,
    network,
    run,
)
from tests.container_archives import directory, oci_archive, symlink, system
from tests.e2e.commands import MXC_OPS, Commands
from tests.images import image
from vm_images.oci.importing import import_archive
from vm_images.oci.inventory import remove

pytestmark = pytest.mark.backend("wslc")

ROOT, APP = "mxc-test/root:1", "mxc-test/app:1"
BUSYBOX = Path("/bin/busybox")
CONFIG = {"Env": ["PATH=/bin", "MARK=of the image"], "User": "web", "WorkingDir": "/srv/app/new"}


@pytest.fixture(scope="module", autouse=True)
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One whose user is root, and one with everything that a config can say; in the system's store."""
    image("utility")
    folder = tmp_path_factory.mktemp("archives")
    busybox = BUSYBOX.read_bytes()
    listed = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    links = [symlink(f"bin/{name}", "busybox") for name in listed if name not in ("busybox", "sh")]
    (folder / "root.tar").write_bytes(system(busybox, *links, directory("mnt")))
    layer = system(busybox, *links, directory("srv"), directory("srv/app", uid=33, gid=34))
    (folder / "app.tar").write_bytes(oci_archive(layer, run=CONFIG))
    for name, reference in (("root.tar", ROOT), ("app.tar", APP)):
        import_archive(folder / name, reference)
    yield folder
    for reference in (ROOT, APP):
        remove(reference)


def policy(reference: str = ROOT, settings: dict[str, Any] | None = None, **fields: Any) -> Policy:
    return Policy(containment="wslc", wslc=WslcSettings(image=reference, **(settings or {})), **fields)


def lines(result: Result) -> list[str]:
    assert result.ok, result.stderr
    return result.stdout.decode().splitlines()


def test_environment_user_and_working_directory_are_the_images() -> None:
    said = lines(run(policy(APP), "id -u; id -g; pwd; echo $MARK $PATH"))
    assert said == ["33", "34", "/srv/app/new", "of the image /bin"]


def test_what_the_document_says_of_them_goes_before() -> None:
    given = policy(APP, env={"MARK": "mine", "MORE": "1"}, cwd="/srv")
    assert lines(run(given, "pwd; echo $MARK $MORE $PATH")) == ["/srv", "mine 1 /bin"]
    assert lines(run(policy(APP), ["/bin/busybox", "echo", "$MARK"])) == ["$MARK"]


def test_the_root_is_the_images_and_what_is_written_stays_in_the_run() -> None:
    write = (
        "echo new > /etc/written && cat /etc/written; ls /run/mxc 2>&1; cat /proc/1/cmdline | tr '\\0' ' '"
    )
    assert lines(run(policy(), write))[0] == "new"
    again = run(policy(), "ls /etc/written; ls /dev | tr '\\n' ' '; cat /proc/mounts")
    assert b"/etc/written: No such file" in again.stderr
    assert b" vd" not in again.stdout and b"vport" not in again.stdout


def test_root_of_an_image_is_nobody_special() -> None:
    said = lines(run(policy(), "grep -E 'Cap(Eff|Bnd|Prm)|NoNewPrivs|Seccomp:' /proc/self/status"))
    told = dict(line.split(":\t") for line in said)
    assert {told[name] for name in ("CapEff", "CapBnd", "CapPrm")} == {"0" * 16}
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
    attacks = "mount -t tmpfs x /mnt; chown 5 /etc/passwd; mknod /n b 254 0; echo 1 > /proc/sys/kernel/panic"
    result = run(policy(), attacks)
    assert not result.ok and result.stderr.count(b"Operation not permitted") >= 2


def test_grants_nest_in_any_way(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "secret").mkdir(parents=True)
    (data / "secret" / "key").write_text("s")
    (data / "out" / "fixed").mkdir(parents=True)
    (data / "out" / "fixed" / "f").write_text("kept")
    for path in (tmp_path, data, data / "out", data / "out" / "fixed"):
        path.chmod(0o755)
    granted = policy(
        APP,
        read_only=[data, data / "out" / "fixed"],
        read_write=[data / "out"],
        denied=[data / "secret"],
    )
    source = (
        f"cd {data}; ls; cat secret/key; echo no > x; echo new > out/made; echo no > out/fixed/f;"
        " stat -c %u:%g out/made"
    )
    result = run(granted, source)
    assert result.stdout == b"out\n33:34\n", result
    assert b"secret/key" in result.stderr and result.stderr.count(b"Read-only file system") == 2
    assert (data / "out" / "made").read_text() == "new\n"
    assert (data / "out" / "fixed" / "f").read_text() == "kept"


def test_what_is_written_can_lie_on_a_disk(tmp_path: Path) -> None:
    kept = policy(settings={"storage": str(tmp_path)})
    said = lines(run(kept, "df -k / | tail -n1 | awk '{print ($2 > 4000000)}'; echo x > /f; cat /f"))
    assert said == ["1", "x"]
    assert list(tmp_path.iterdir()) == [], "it never had a name"
    with pytest.raises(PolicyRefused, match="no file can be made") as caught:
        run(policy(settings={"storage": f"{tmp_path}/none"}), "true")
    assert caught.value.problems[0].path == "wslc.storage"


def test_limits_and_timeouts_hold() -> None:
    limited = policy(limits=Limits(pids=8, memory_mib=64), timeout_s=20)
    result = run(limited, "for i in $(seq 20); do sleep 1 & done")
    held: dict[str, LimitOutcome] = {limit.name: limit for limit in result.limits}
    assert held["pids"].hit or b"fork" in result.stderr
    slow = run(policy(timeout_s=0.5), "sleep 60")
    assert (slow.exit_code, slow.outcome) == (124, Outcome.TIMED_OUT)


def test_memory_and_processors_are_the_documents() -> None:
    said = lines(
        run(
            policy(settings={"memory_mib": 1024, "cpus": 2}),
            "nproc; awk '/MemTotal/{print $2}' /proc/meminfo",
        )
    )
    assert said[0] == "2" and 900_000 < int(said[1]) < 1_060_000


def test_a_port_of_the_hosts_loopback_leads_in() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    document = {
        "version": "1.0.0",
        "containment": "wslc",
        "wslc": {"image": ROOT, "portMappings": [{"windowsPort": port, "containerPort": 80}]},
        "process": {"commandLine": "mkdir /www; echo hello > /www/index.html; httpd -p 80 -h /www; sleep 20"},
    }
    answers: list[bytes] = []

    def ask() -> None:
        until = time.monotonic() + 60
        while not answers and time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=5) as answer:
                    answers.append(answer.read())
            except OSError:
                time.sleep(0.2)

    asking = threading.Thread(target=ask)
    asking.start()
    process = {**document["process"], "timeout": 25000}  # type: ignore[dict-item]
    result = run({**document, "process": process})
    asking.join()
    assert answers == [b"hello\n"], result


def test_a_program_that_the_image_lacks_is_a_matter_of_the_image() -> None:
    with pytest.raises(LaunchFailed) as caught:
        run(policy(), ["no-such-program"])
    (problem,) = caught.value.problems
    assert problem.code == "program_not_found" and problem.fix.startswith("mxc-ops image import")


def test_without_a_network_there_is_the_loopback_alone() -> None:
    assert lines(run(policy(), "ip -o addr | grep -c 'scope global'; :")) == ["0"]
    told = run(policy(network=network(allow=["192.0.2.0/24"])), "ip route | grep -c default")
    assert lines(told) == ["1"]
    assert dict(told.enforced)["network"].startswith("nft rules")


def test_what_no_container_has_is_refused_by_name() -> None:
    for settings, place in (({"gpu": True}, "wslc/gpu"), ({"target_os": "windows"}, "wslc/targetOs")):
        with pytest.raises(PolicyRefused) as caught:
            run(policy(settings=settings), "true")
        assert [problem.path for problem in caught.value.problems] == [place]
    with pytest.raises(PolicyRefused) as caught:
        run(policy(user=1234), "true")
    assert {problem.code for problem in caught.value.problems} == {"user_not_supported"}


def test_an_image_that_is_not_here_is_not_fetched() -> None:
    with pytest.raises(BackendUnavailable) as caught:
        run(policy("registry.invalid/nothing:1"), "true")
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("no_image", "wslc.image")
    assert problem.fix.startswith("mxc-ops image pull registry.invalid/nothing:1")


def test_an_archive_is_imported_for_the_run_and_only_by_who_may_read_it(
    images: Path, somebody: Commands, tmp_path: Path
) -> None:
    from_archive = policy(settings={"image_tar": str(images / "app.tar")})
    from_archive = from_archive.replace(wslc=WslcSettings(image_tar=str(images / "app.tar")))
    assert lines(run(from_archive, "id -u")) == ["33"]
    secret = tmp_path / "secret.tar"
    secret.write_bytes((images / "root.tar").read_bytes())
    secret.chmod(0o600)
    document = {"version": "1.0.0", "containment": "wslc", "process": {"commandLine": "true"}}
    document["wslc"] = {"imageTarPath": str(secret)}
    refused = somebody.run(MXC_OPS, "run", somebody.config(document))
    assert refused.returncode == 125 and "/wslc/imageTarPath" in refused.stderr
    planned = somebody.run(MXC_OPS, "plan", somebody.config({**document, "wslc": {"image": ROOT}}))
    plan = json.loads(planned.stdout)["plan"]
    assert plan["container"]["reference"] == f"docker.io/{ROOT}" and plan["backend"] == "wslc"


def test_a_kept_container_runs_several_commands_at_once_and_outlives_their_timeouts() -> None:
    with Session.open(policy(APP)) as session:
        assert session.id.startswith("wslc:")
        assert lines(session.exec("pwd; echo $MARK; echo kept > /tmp/k")) == ["/srv/app/new", "of the image"]
        started = [session.spawn("sleep 1; cat /tmp/k", stdout=None) for _ in range(2)]
        slow = session.exec("sleep 60", policy=policy(APP, timeout_s=0.5))
        assert slow.timed_out
        for process in started:
            assert process.wait().stdout == b"kept\n"
        overlaid = session.exec("pwd; echo $MARK", policy=policy(APP, cwd="/srv", env={"MARK": "mine"}))
        assert lines(overlaid) == ["/srv", "mine"]
        session.stop()
        session.start()
        assert session.exec("ls /tmp/k").exit_code != 0


@pytest.mark.parametrize("version", ["0.8.0-alpha", "1.0.0", "1.1.0-alpha"])
def test_a_lifecycle_is_asked_for_in_every_versions_place(somebody: Commands, version: str) -> None:
    section = {"wslc": {"provision": {"image": ROOT}}}
    provision: dict[str, Any] = {"version": version, "phase": "provision", "containment": "wslc"}
    provision |= {"experimental": section} if version.startswith("0.") else section
    made = somebody.run("mxc-exec", "--experimental", somebody.config(provision))
    answer = json.loads(made.stdout)
    identifier = answer["result"]["sandboxId"]
    assert identifier.startswith("wslc:") and len(identifier) == 5 + 32

    def phase(name: str, **more: Any) -> Any:
        document = {"version": version, "phase": name, "sandboxId": identifier, **more}
        return somebody.run("mxc-exec", "--experimental", somebody.config(document))

    try:
        assert json.loads(phase("start").stdout) == {"result": {}}
        done = phase("exec", process={"commandLine": "id -u; exit 3"})
        assert (done.returncode, done.stdout) == (3, "0\n"), done.stderr
        assert json.loads(phase("stop").stdout) == {"result": {}}
        early = json.loads(phase("exec", process={"commandLine": "true"}).stdout)
        assert early["error"]["code"] == "not_started"
    finally:
        assert json.loads(phase("deprovision").stdout) == {"result": {}}
    assert json.loads(phase("start").stdout)["error"]["code"] in ("not_provisioned", "stale_id")
