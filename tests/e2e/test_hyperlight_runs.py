"""Hyperlight's runtimes in clones of templates: source goes in, and nothing of one run is in the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mxc_ops import (
    BackendUnavailable,
    Driver,
    HyperlightSettings,
    Outcome,
    Policy,
    PolicyRefused,
    Result,
    Runtime,
    Session,
    WarmPool,
    network,
    run,
)
from tests.e2e.commands import MXC_OPS, Commands
from tests.images import image

pytestmark = pytest.mark.backend("hyperlight")


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    for name in ("base", "python", "node", "agent"):
        image(name)


def policy(runtime: Runtime = Runtime.PYTHON, **fields: object) -> Policy:
    settings = HyperlightSettings(runtime, Driver.QEMU)
    return Policy(containment="hyperlight", hyperlight=settings, **fields)  # type: ignore[arg-type]


def lines(result: Result) -> list[str]:
    assert result.ok, result.stderr
    return result.stdout.decode().splitlines()


def test_the_streams_stay_apart_and_the_exit_code_is_the_guests() -> None:
    source = "import sys\nprint('out')\nprint('problem', file=sys.stderr)\nsys.exit(7)"
    result = run(policy(), source)
    assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"problem\n")
    assert dict(result.enforced)["driver"].startswith("qemu, with the runtime python: ")
    assert result.origin.plan.as_dict()["runtime"] == "python"


@pytest.mark.parametrize(
    ("runtime", "source", "said"),
    [
        (Runtime.PYTHON, "print(__name__, 6 * 7)", "__main__ 42"),
        (Runtime.BASH, "words=(a b); echo ${#words[@]} ${BASH_VERSINFO[0]}", "2 5"),
        (Runtime.PYTHON_SHELL, "echo $0; python3 -c 'print(6 * 7)' | tr 2 3", "/bin/sh"),
        (Runtime.NODE, "console.log(6 * 7, typeof require)", "42 function"),
        (Runtime.AGENT, "node -p 6*7; python3 -c 1 && git --version && curl --version && jq --version", "42"),
    ],
)
def test_each_runtime_takes_its_own_source(runtime: Runtime, source: str, said: str) -> None:
    assert lines(run(policy(runtime), source))[0] == said


def test_environment_and_working_directory_are_given_where_upstream_drops_them() -> None:
    source = "import os; print(sorted(os.environ.items()), os.getcwd())"
    result = run(policy(env={"A": "1"}, cwd="/var/tmp"), source)
    assert lines(result) == ["[('A', '1')] /var/tmp"]
    assert run(policy(Runtime.BASH), "cat", input=b"fed").stdout == b"fed"


def test_nothing_of_one_run_is_in_the_next() -> None:
    leave = "import json; json.left = open('/tmp/left', 'w').write('x')"
    look = (
        "import json, os, random; print(os.path.exists('/tmp/left'), vars(json).get('left'), random.random())"
    )
    assert run(policy(), leave).ok
    first, second = lines(run(policy(), look)), lines(run(policy(), look))
    assert first[0].startswith("False None ")
    assert first != second, "two clones drew the same random number"


def test_grants_are_below_host_by_their_last_names(tmp_path: Path) -> None:
    data, single = tmp_path / "data", tmp_path / "note.txt"
    (data / "secret").mkdir(parents=True)
    (data / "secret" / "key").write_text("s")
    (data / "out").mkdir()
    single.write_text("noted")
    (tmp_path / "current").symlink_to("data")
    grants = policy(
        Runtime.BASH,
        read_only=[data, single, tmp_path / "current"],
        read_write=[data / "out"],
        denied=[data / "secret"],
    )
    source = (
        "ls /host /host/data; cat /host/note.txt; echo; ls /host/data/secret; ls /host/current;"
        " echo new > /host/out/made && cat /host/data/out/made; echo no > /host/data/x;"
        f" ls {tmp_path}"
    )
    result = run(grants, source)
    out = result.stdout.decode()
    assert out.startswith("/host:\ncurrent\ndata\nnote.txt\nout\n\n/host/data:\nout\nnoted\n")
    assert out.endswith("out\nnew\n")
    errors = result.stderr.decode()
    assert "key" not in out and "/host/data/x: Read-only file system" in errors
    assert f"{tmp_path}" in errors, "the host's own paths are not there"
    assert (data / "out" / "made").read_text() == "new\n"


def test_what_cannot_be_told_apart_or_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("a/data", "b/data"):
        (tmp_path / name).mkdir(parents=True)
    both = policy(read_only=[tmp_path / "a/data"], read_write=[tmp_path / "b/data"])
    with pytest.raises(PolicyRefused, match="would both be /host/data") as caught:
        run(both, "1")
    assert caught.value.problems[0].code == "host_name_collision"
    with pytest.raises(PolicyRefused) as caught:
        run(policy(read_only=[tmp_path / "none"]), "1")
    assert [(each.code, each.path) for each in caught.value.problems] == [("path_missing", "read_only[0]")]
    assert not (tmp_path / "none").exists()


def test_the_hosts_system_may_be_granted_as_it_covers_nothing(tmp_path: Path) -> None:
    assert lines(run(policy(Runtime.BASH, read_only=["/etc/hostname"]), "cat /host/hostname")) == (
        Path("/etc/hostname").read_text().splitlines()
    )


def test_time_runs_out() -> None:
    result = run(policy(timeout_s=0.5), "while True: pass")
    assert (result.exit_code, result.outcome) == (124, Outcome.TIMED_OUT)


def test_a_network_is_as_everywhere() -> None:
    result = run(policy(Runtime.BASH), "cat /proc/net/route | wc -l; exec 3<>/dev/tcp/192.0.2.1/80")
    assert result.stdout == b"1\n" and b"unreachable" in result.stderr
    plan = run(policy(network=network(allow=["192.0.2.0/24"])), "print(1)")
    assert plan.network is not None and dict(plan.enforced)["network"].startswith("nft rules")


def test_a_runtime_whose_recipe_nobody_built_is_refused_with_the_reason() -> None:
    with pytest.raises(BackendUnavailable) as caught:
        run(policy(Runtime.DOTNET_JIT), "Console.WriteLine(1);")
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("no_image", "hyperlight.runtime")
    assert "mxc-ops has no recipe" in problem.message and "dotnet-jit" in problem.fix


def test_clones_can_wait_and_a_session_keeps_one() -> None:
    with WarmPool(policy(), size=1):
        result = run(policy(), "print(1)")
        assert "acquired" in dict(result.timings)
    with Session.open(policy(Runtime.BASH)) as session:
        assert session.exec("touch /tmp/kept; echo ${BASH_VERSINFO[0]}").stdout == b"5\n"
        assert session.exec("ls /tmp/kept").ok and session.id.startswith("hl:")


def test_a_document_runs_as_its_version_means_it(somebody: Commands) -> None:
    document = {"containment": "hyperlight", "process": {"commandLine": "print(6 * 7)"}}
    older = {"version": "0.8.0-alpha", **document}
    newest = {"version": "1.1.0-alpha", "hyperlight": {"runtime": "python"}, **document}
    assert run(newest).stdout == run(older).stdout == b"42\n"
    done = somebody.run(MXC_OPS, "run", somebody.config(older))
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_the_command_line_names_runtime_and_driver(somebody: Commands) -> None:
    flags = ("--backend", "hyperlight", "--runtime", "bash", "--driver", "qemu")
    done = somebody.run(MXC_OPS, "run", *flags, "--", "echo ${BASH_VERSINFO[0]}")
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr
    document = {"version": "1.1.0-alpha", "containment": "hyperlight", "hyperlight": {"runtime": "bash"}}
    document |= {"process": {"commandLine": "true"}, "mxcOps": {"hyperlight": {"driver": "qemu"}}}
    planned = somebody.run(MXC_OPS, "plan", somebody.config(document))
    plan = json.loads(planned.stdout)["plan"]
    assert (plan["driver"], plan["runtime"]) == ("qemu", "bash")
    foreign = somebody.run(MXC_OPS, "run", "--runtime", "node", "--", "1")
    assert foreign.returncode == 125 and "remove --runtime and --driver" in foreign.stderr
