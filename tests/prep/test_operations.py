"""Every operation on this host through pyinfra, in a throw-away folder: it changes, and then never again."""

# pyright: reportUnknownMemberType=false
# pyinfra annotates its contexts incompletely.

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from gevent import monkey

monkey.patch_all()

from pyinfra.api.config import Config  # noqa: E402 - only after gevent has patched the process
from pyinfra.api.connect import connect_all, disconnect_all  # noqa: E402 - as above
from pyinfra.api.inventory import Inventory  # noqa: E402 - as above
from pyinfra.api.operations import run_ops  # noqa: E402 - as above
from pyinfra.api.state import State, StateStage  # noqa: E402 - as above
from pyinfra.context import ctx_config, ctx_host, ctx_state  # noqa: E402 - as above

from mxc_ops.prep.decisions import Decision  # noqa: E402 - as above
from mxc_ops.prep.engine import OPERATIONS, decide  # noqa: E402 - as above
from mxc_ops.prep.items import Item  # noqa: E402 - as above


class Attempt(Protocol):
    """Decide, apply, decide again."""

    def __call__(self, operation: str, **arguments: Any) -> tuple[Decision, Decision]: ...


@pytest.fixture
def attempt() -> Iterator[Attempt]:
    state = State(Inventory((["@local"], dict[str, Any]())), Config(), check_for_changes=False)

    def carry_out(operation: str, **arguments: Any) -> tuple[Decision, Decision]:
        item = Item("an.item", "kind", "why", operation, arguments)
        first = decide(item)
        if not first.refusal:
            OPERATIONS[operation](name="an.item", **arguments)
            state.set_stage(StateStage.Execute)
            run_ops(state)
        return first, decide(item)

    with ctx_state.use(state):
        state.set_stage(StateStage.Connect)
        connect_all(state)
        state.set_stage(StateStage.Prepare)
        with ctx_config.use(state.config.copy()), ctx_host.use(state.inventory.get_host("@local")):
            yield carry_out
        disconnect_all(state)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to make things that are root's")


def test_missing_packages_are_noticed_and_present_ones_left_alone(attempt: Attempt) -> None:
    absent = Item("a", "k", "w", "packages.installed", {"packages": ["libc-bin", "no-such-package-here"]})
    assert decide(absent).before == "no-such-package-here not installed"
    before, after = attempt("packages.installed", packages=["libc-bin"])
    assert (before.commands, after.commands) == ((), ())


@needs_root
def test_a_directory_is_made_once(attempt: Attempt, tmp_path: Path) -> None:
    before, after = attempt("files.root_directory", path=f"{tmp_path}/a b/c")
    assert before.commands
    assert not after.commands
    assert (tmp_path / "a b/c").stat().st_mode & 0o777 == 0o755


def test_a_directory_that_others_may_write_to_is_refused(attempt: Attempt, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    before, _ = attempt("files.root_directory", path=str(tmp_path))
    assert before.refusal
    assert tmp_path.stat().st_mode & 0o777 == 0o777


def test_a_range_is_recorded_once_and_read_by_the_backend(attempt: Attempt, tmp_path: Path) -> None:
    from backends.linux.uid_range import UidRange, configured_range

    host_file = tmp_path / "it's new/host.json"
    before, after = attempt("ids.recorded_range", path=str(host_file), wanted="1900000000:4096")
    assert before.commands
    assert not after.commands
    assert configured_range(str(host_file)) == UidRange(1900000000, 4096)
    assert host_file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in host_file.parent.iterdir()] == ["host.json"]


def test_a_range_that_includes_an_account_is_refused(attempt: Attempt, tmp_path: Path) -> None:
    host_file = tmp_path / "host.json"
    before, _ = attempt("ids.recorded_range", path=str(host_file), wanted="0:10")
    assert "/etc/passwd gives root 0" in before.refusal
    assert not host_file.exists()


def test_what_the_host_file_says_otherwise_is_kept(attempt: Attempt, tmp_path: Path) -> None:
    host_file = tmp_path / "host.json"
    host_file.write_text('{"site": "a\'b $HOME"}')
    attempt("ids.recorded_range", path=str(host_file), wanted="1900000000:4096")
    assert json.loads(host_file.read_text())["site"] == "a'b $HOME"


@needs_root
def test_a_helper_is_built_once(attempt: Attempt, tmp_path: Path) -> None:
    program = tmp_path / "program"
    before, after = attempt("helpers.built", path=str(program), build=["cp", "/bin/true", str(program)])
    assert before.commands
    assert not after.commands


def test_a_kernel_setting_that_is_not_there_is_left_alone(attempt: Attempt) -> None:
    before, after = attempt("kernel.setting", key="kernel.no_such_setting", wanted="1")
    assert before.before == after.before == "this kernel has no such setting"


def test_a_kernel_setting_that_is_right_is_left_alone(attempt: Attempt) -> None:
    before, _ = attempt("kernel.setting", key="kernel.pid_max", wanted=">=1")
    assert not before.commands


def test_a_profile_is_written_only_where_a_switch_is_on(attempt: Attempt, tmp_path: Path) -> None:
    before, _ = attempt("apparmor.profile", switch="kernel.pid_max", path=f"{tmp_path}/p", program="/bin/x")
    assert not before.commands


@pytest.mark.usefixtures("attempt")
def test_a_profile_that_is_in_place_is_left_alone(tmp_path: Path) -> None:
    arguments = {"switch": "fs.protected_hardlinks", "path": f"{tmp_path}/p", "program": "/bin/x"}
    item = Item("a", "k", "w", "apparmor.profile", arguments)
    write, load = decide(item).commands
    assert load == f"apparmor_parser -r {tmp_path}/p"
    subprocess.run(["sh", "-c", write], check=True)
    assert not decide(item).commands
