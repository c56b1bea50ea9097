"""What comes before and after a run in a virtual machine: its image, ``--accel``, and what is told of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vm_images.store
from backends.base import SandboxRequest
from backends.ended import Conflict, Ended, Outcome, Usage
from backends.errors import BackendUnavailable, ConfigError, PolicyRefused, Problem
from backends.frozen import replace
from backends.virtual_machine import CommandKind, Image, VirtualMachine
from mxc_ops import Policy, prepare, run
from mxc_ops.cli import exec_compat, main
from mxc_ops.cli.run_flags import name_flags
from tests.unit.machines import IMAGE, StandIn, put_in_place

TOLD = Ended(
    Outcome.EXITED,
    3,
    None,
    Usage(),
    timings=(("spawned", 4.25), ("exited", 160.0004)),
    conflicts=(Conflict("/srv/a\x1b[1m", "/srv/a.mxc-guest-1", "/filesystem/readwritePaths/0"),),
    warnings=("the clock was set back",),
)
DOCUMENT: dict[str, Any] = {
    "version": "1.1.0-alpha",
    "containment": "microvm",
    "process": {"commandLine": "print(1)"},
    "mxcOps": {"vm": {"accel": "kvm"}},
}
Config = Callable[..., str]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def find(name: str) -> Image:
        if name in ("python", "node", "base"):
            return replace(IMAGE, name=name)
        raise BackendUnavailable(
            Problem("no_image", "", f"there is no image {name!r}", fix=f"mxc-ops image build {name}")
        )

    monkeypatch.setattr(vm_images.store, "find_image", find)
    yield put_in_place(monkeypatch)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    def write(**fields: Any) -> str:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(DOCUMENT | fields))
        return str(path)

    return write


def test_the_backend_is_given_the_image_that_the_name_stands_for(backend: StandIn) -> None:
    with prepare(Policy(containment="vm").request("true")) as prepared:
        assert prepared.plan.as_dict()["image"] == "base"
    [request] = backend.observed
    assert request == prepared.request
    assert request.vm is not None and request.vm.image == replace(IMAGE, name="base")


def test_an_image_that_was_looked_up_before_is_taken_as_it_is(backend: StandIn) -> None:
    vm = VirtualMachine("mine", image=replace(IMAGE, name="mine"), command=CommandKind.SHELL)
    with prepare(SandboxRequest("vm", shell="true", vm=vm)) as prepared:
        assert prepared.plan.as_dict()["image"] == "mine"


def test_a_request_made_by_hand_gets_the_machine_of_its_containment(backend: StandIn) -> None:
    with prepare(SandboxRequest("microvm", shell="print(1)")) as prepared:
        assert prepared.plan.as_dict()["image"] == "python"
        assert prepared.request.vm is not None and prepared.request.vm.command is CommandKind.PYTHON


@pytest.mark.parametrize("name", ["../python", "/srv/image", "a/b", ".."])
def test_no_request_reaches_an_image_by_a_path(backend: StandIn, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^/mxcOps/vm/image: .* is not the name of an image"):
        prepare(SandboxRequest("vm", shell="true", vm=VirtualMachine(name)))
    assert backend.observed == []


def test_a_missing_image_is_told_with_its_place_and_the_command_that_builds_it(
    backend: StandIn, config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        run(Policy(containment="vm", vm=VirtualMachine("mine")), "true")
    assert (caught.value.path, caught.value.fix) == ("vm.image_name", "mxc-ops image build mine")
    path = config(mxcOps={"vm": {"image": "mine"}})
    for command in ("run", "plan"):
        assert main([command, "--json", path]) == 125
        told = capfd.readouterr()
        error = json.loads(told.out or told.err)["error"]
        assert error["code"] == "backend_unavailable"
        assert error["problems"][0]["path"] == "/mxcOps/vm/image"
    assert main(["run", "--backend", "vm", "--image", "mine", "--", "true"]) == 125
    assert "--image: there is no image 'mine'\n  fix: mxc-ops image build mine" in capfd.readouterr().err
    assert backend.observed == []


def test_what_a_machine_told_is_in_the_result(backend: StandIn) -> None:
    backend.ended = TOLD
    result = run(Policy(containment="microvm"), "print(1)")
    assert (result.exit_code, result.timings, result.conflicts) == (3, TOLD.timings, TOLD.conflicts)
    assert result.warnings == ("the clock was set back",)
    told = json.loads(json.dumps(result.as_dict()))
    assert told["timings"] == {"spawned": 4.25, "exited": 160.0}
    assert told["conflicts"] == [
        {
            "path": "/srv/a\x1b[1m",
            "keptAs": "/srv/a.mxc-guest-1",
            "pointer": "/filesystem/readwritePaths/0",
        }
    ]
    assert told["schemaVersion"] == 1


def test_people_and_programs_are_told_of_conflicts_and_late_warnings(
    backend: StandIn, config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    backend.ended = TOLD
    assert main(["run", config()]) == 3
    assert capfd.readouterr().err.splitlines() == [
        "mxc-ops: warning: the clock was set back",
        "mxc-ops: warning: /srv/a\\x1b[1m was changed on the host during the run and stays as it is;"
        " the sandbox's version is kept as /srv/a.mxc-guest-1 (granted by /filesystem/readwritePaths/0)",
    ]
    assert main(["run", "--json", config()]) == 3
    told = json.loads(capfd.readouterr().err)
    assert (told["timings"]["spawned"], told["conflicts"][0]["keptAs"]) == (4.25, "/srv/a.mxc-guest-1")
    assert main(["run", "--quiet", config()]) == 3
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("accel", "said"), [("tcg", "tcg"), ("auto", ""), (None, "kvm")])
def test_accel_goes_over_what_the_document_says(
    backend: StandIn, config: Config, accel: str | None, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--accel", accel] if accel else []
    assert main(["run", *flags, config()]) == 0
    assert main(["plan", *flags, config()]) == 0
    assert [request.vm.accelerator for request in backend.observed if request.vm] == [said, said]
    planned = json.loads(capfd.readouterr().out)
    assert planned["plan"]["command"] == {"python": "print(1)"}


def test_accel_is_refused_where_nothing_is_carried(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--accel", "tcg", "--", "true"]) == 125
    assert "--accel: bubblewrap starts no virtual machine" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words", "vm", "command"),
    [
        ([], ["echo", "a b"], {"image_name": "base", "command": CommandKind.ARGS}, ["echo", "a b"]),
        (
            ["--command-kind", "shell", "--vm-memory", "512", "--vm-cpus", "2", "--machine", "q35"],
            ["echo $HOME"],
            {"memory_mib": 512, "cpus": 2, "machine": "q35", "command": CommandKind.SHELL},
            "echo $HOME",
        ),
        (
            ["--command-kind", "python", "--accel", "tcg"],
            ["print(1)"],
            {"image_name": "python", "accelerator": "tcg", "command": CommandKind.PYTHON},
            "print(1)",
        ),
        (
            ["--command-kind", "node"],
            ["console.log(1)"],
            {"image_name": "node", "command": CommandKind.NODE},
            "console.log(1)",
        ),
    ],
)
def test_flags_say_what_documents_say(
    backend: StandIn, flags: list[str], words: list[str], vm: dict[str, Any], command: str | list[str]
) -> None:
    assert main(["run", "--backend", "vm", *flags, "--", *words]) == 0
    [request] = backend.observed
    assert {name: getattr(request.vm, name) for name in vm} == vm
    assert (request.shell or list(request.args)) == command


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--image", "../x"], "--image: '../x' is not the name of an image"),
        (["--vm-memory", "1"], "--vm-memory: 1 is out of range"),
        (["--vm-cpus", "65"], "--vm-cpus: 65 is out of range"),
        (["--command-kind", "python"], "CMD: Python source is one word, and there are 2 after --"),
        (["--command-kind", "node"], "CMD: JavaScript source is one word, and there are 2 after --"),
        (["--backend", "microvm"], "CMD: Python source is one word, and there are 2 after --"),
        (["--command-kind", "shell"], "CMD: a shell line is one word, and there are 2 after --"),
    ],
)
def test_flags_are_named_when_they_are_wrong(
    flags: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--backend", "vm", *flags, "--", "true", "x"]) == 64
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "kind"), [([], CommandKind.PYTHON), (["--command-kind", "args"], CommandKind.ARGS)]
)
def test_one_word_for_a_microvm_is_source_unless_it_is_said_to_be_a_program(
    backend: StandIn, flags: list[str], kind: CommandKind
) -> None:
    assert main(["run", "--backend", "microvm", *flags, "--", "print"]) == 0
    [request] = backend.observed
    assert request.vm is not None and request.vm.command is kind
    assert (request.shell or list(request.args)) == ("print" if kind is CommandKind.PYTHON else ["print"])


@pytest.mark.parametrize(
    ("path", "fix", "said"),
    [
        ("/mxcOps/limits/memoryMib", "mxcOps.vm.memoryMib: 512", "--memory: no; fix: --vm-memory 512"),
        ("limits/pids", "", "--pids: no"),
        ("/mxcOps/vm/memoryMib", "", "--vm-memory: no"),
        ("vm.accelerator", "", "--accel: no"),
        ("/mxcOps/vm/image", "mxcOps.vm.command: shell", "--image: no; fix: --command-kind shell"),
    ],
)
def test_what_a_backend_says_of_the_document_is_told_in_flags(path: str, fix: str, said: str) -> None:
    options = Namespace(env_file=None, env_fd=None)
    [problem] = name_flags(PolicyRefused(Problem("x", path, "no", fix=fix)), options).problems
    assert str(problem) == said


def test_an_accelerator_that_was_asked_for_by_a_flag_is_refused_by_the_flag(
    backend: StandIn, config: Config
) -> None:
    assert main(["run", "--accel", "kvm", config()]) == 0
    assert main(["run", config()]) == 0
    pointers = [request.pointers["accelerator"] for request in backend.observed]
    assert pointers == ["--accel", "/mxcOps/vm/accel"]


def test_a_config_takes_none_of_the_flags_but_accel(
    backend: StandIn, config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--machine", "q35", config()]) == 64
    assert "--machine: a CONFIG says its policy itself" in capfd.readouterr().err
    assert backend.observed == []


def test_the_drop_in_executor_runs_them_and_tells_of_conflicts(
    backend: StandIn, config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    backend.ended = TOLD
    assert exec_compat.main([config()]) == 1
    assert "is experimental; enable experimental features" in capfd.readouterr().err
    assert exec_compat.main(["--experimental", config(), "--debug"]) == 3
    told = capfd.readouterr()
    assert "the sandbox's version is kept as /srv/a.mxc-guest-1" in told.err
    assert "bwrap" not in told.out + told.err
    [request] = backend.observed
    assert request.vm is not None and request.vm.command is CommandKind.PYTHON
    assert exec_compat.main(["--experimental", config(), "--", "print(2)"]) == 3
    assert backend.observed[-1].shell == "print(2)"


@pytest.mark.backend("bubblewrap")
def test_a_run_in_bubblewrap_imports_nothing_of_images() -> None:
    code = "import sys; from mxc_ops import Policy, run; run(Policy(), 'true'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not any(name.startswith("vm_images") for name in done.stdout.split())
