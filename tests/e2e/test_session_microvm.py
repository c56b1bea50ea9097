"""Sandboxes of `microvm` that stay: their commands are Python source, by documents and by Python."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from mxc_ops import Session
from tests.conftest import User
from tests.e2e.commands import MXC_EXEC, Commands
from tests.e2e.test_cli_lifecycle import Client, error_of, result_of

pytestmark = [
    pytest.mark.backend("microvm"),
    pytest.mark.usefixtures("python_image"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root alone is sure to have what machines need"),
]
WRITE = (
    "import pathlib\npath = pathlib.Path('/tmp/note')\npath.write_text('kept')\nprint(path.read_text() * 2)"
)
READ = "import pathlib, sys\nprint(pathlib.Path('/tmp/note').read_text(), sys.stdin.read())"


class MicrovmClient(Client):
    """What is experimental is provisioned by who says so; later phases need not."""

    def provision(self, **fields: Any) -> str:
        body = {"phase": "provision", "containment": self.containment, **fields}
        identifier = result_of(self.ask(body, "--experimental"))["sandboxId"]
        self.made.append(identifier)
        return identifier


@pytest.fixture
def client(as_user: User) -> Iterator[MicrovmClient]:
    made = MicrovmClient(Commands("root", as_user), "microvm")
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(made.caller.folder, ignore_errors=True)


def test_a_whole_life_by_documents(client: MicrovmClient) -> None:
    identifier = client.provision()
    assert re.fullmatch(r"vm:[0-9a-f]{32}", identifier)
    assert error_of(client.run(identifier, "print('ran')"))["code"] == "not_started"
    assert result_of(client.phase("start", identifier)) == {}
    assert error_of(client.phase("start", identifier))["code"] == "already_started"
    done = client.run(identifier, WRITE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "keptkept\n", "")
    done = client.run(identifier, READ, stdin="in")
    assert (done.returncode, done.stdout, done.stderr) == (0, "kept in\n", "")
    done = client.run(identifier, "print('out')\nraise SystemExit(3)")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "")
    done = client.run(identifier, "{}['missing']")
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (1, "", "KeyError: 'missing'")
    assert result_of(client.phase("stop", identifier)) == {}
    assert error_of(client.phase("stop", identifier))["code"] == "already_stopped"
    assert result_of(client.phase("deprovision", identifier)) == {}
    assert error_of(client.phase("start", identifier))["code"] == "stale_id"


def test_it_is_provisioned_by_who_says_that_it_is_experimental(client: MicrovmClient) -> None:
    body = {"phase": "provision", "containment": "microvm"}
    for flags in ((), ("--dry-run",)):
        error = error_of(client.ask(body, *flags))
        assert (error["code"], error["remediation"]) == ("backend_unavailable", "--experimental")
    assert result_of(client.ask(body, "--experimental", "--dry-run")) == {}


def test_arguments_replace_the_source_where_the_document_has_them(client: MicrovmClient) -> None:
    identifier = client.provision()
    assert result_of(client.phase("start", identifier)) == {}
    body = {"phase": "exec", "sandboxId": identifier, "mxcOps": {"args": ["printf", "%s|", "a b", "$HOME"]}}
    done = client.ask(body)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a b|$HOME|", "")
    config = client.caller.config({"version": "1.1.0-alpha", **body, "mxcOps": {"args": ["true"]}})
    done = client.caller.run(MXC_EXEC, config, "--", "sh", "-c", "exit 4")
    assert (done.returncode, done.stdout) == (4, "")


def test_state_is_kept_between_two_commands_of_python() -> None:
    with Session.open("microvm") as session:
        assert (session.containment, session.id.partition(":")[0]) == ("microvm", "vm")
        assert session.exec(WRITE).stdout == b"keptkept\n"
        assert session.exec(READ, input=b"in").stdout == b"kept in\n"
        assert session.exec(["cat", "/tmp/note"]).stdout == b"kept", "a sequence is an argument vector"
        failed = session.exec("import sys; sys.exit(3)")
        assert (failed.exit_code, failed.stdout) == (3, b"")
        # Names of one command are no other's: each has an interpreter of its own.
        assert session.exec("x = 1").ok
        assert b"NameError" in session.exec("print(x)").stderr
