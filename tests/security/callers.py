"""`Caller`: somebody who starts sandboxes, root or a user without rights, through a worker of theirs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT, User
from tests.security import upstream

Command = str | Sequence[str | Path]

CALLERS_SECRET = "in-the-environment-of-the-caller-5b1d"
"""Value of a variable that every caller has; no sandbox may see it."""

BY_BUBBLEWRAP = [
    pytest.param((name, "bubblewrap"), id=name, marks=pytest.mark.backend("bubblewrap"))
    for name in ("root", "user")
]
BY_LXC = [
    pytest.param((name, "lxc"), id=identifier, marks=pytest.mark.backend("lxc"))
    for name, identifier in (("root", "lxc"), ("user", "lxc-user"))
]
BY_SESSION = [
    pytest.param((name, "bubblewrap", "session"), id=identifier, marks=pytest.mark.backend("bubblewrap"))
    for name, identifier in (("root", "session"), ("user", "session-user"))
]
"""Who calls, and in what: the parameters of the fixture `caller`.

Attacks from inside a session are commands of one that was started for them.
"""

one_shot = pytest.mark.parametrize("caller", [*BY_BUBBLEWRAP, *BY_LXC], indirect=True)
"""For tests of what happens while a sandbox is started, which is the same for a session, or besides it."""

bubblewrap_alone = pytest.mark.parametrize("caller", BY_BUBBLEWRAP, indirect=True)
"""For tests of what LXC has not, or that show only that an attack works elsewhere."""

_OVER = "[the attack is over]"
_PATIENCE_S = 60


@dataclass(frozen=True)
class Told:
    """What came out of one attack.

    `error` is the code of the refusal when nothing ran; `limits` maps names to (mechanism, hit).
    """

    exit_code: int | None
    stdout: str
    stderr: str
    error: str = ""
    codes: tuple[str, ...] = ()
    outcome: str = ""
    limits: Mapping[str, tuple[str, bool | None]] = field(default_factory=dict[str, tuple[str, bool | None]])

    @property
    def said(self) -> str:
        return self.stdout + self.stderr

    @property
    def results(self) -> dict[str, str]:
        """What the probe printed: attempt → "ok", an errno's name or a signal's."""
        return dict(line.split(" ") for line in self.stdout.splitlines() if line.count(" ") == 1)


class Pending:
    """An attack that is under way."""

    def __init__(self, caller: Caller, number: int) -> None:
        self._caller = caller
        self._number = number

    def value(self) -> Any:
        return self._caller.collect(self._number)

    def told(self) -> Told:
        return _told(self.value())


class Caller:
    """Starts sandboxes, ours and bare ones, from one long-lived process in a mount namespace of its own."""

    def __init__(
        self, name: str, user: User | None, containment: str = "bubblewrap", *, session: bool = False
    ) -> None:
        self.name = name
        self.containment = containment
        self.session = session
        self.uid = user.uid if user else 0
        self.gid = user.gid if user else 0
        self.python = user.python if user else sys.executable
        self.environment = {
            **(
                user.environment
                if user
                else {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": str(CHECKOUT)}
            ),
            "CALLERS_SECRET": CALLERS_SECRET,
            "CONTAINMENT": containment,
            **({"SESSION": "1"} if session else {}),
        }
        self._worker = subprocess.Popen(
            [
                *self._become(own_mounts=True),
                self.python,
                "-c",
                (Path(__file__).with_name("worker.py")).read_text(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            cwd="/",
            text=True,
        )
        self._sent = 0
        self._answers: dict[int, Mapping[str, Any]] = {}

    @property
    def own_system(self) -> bool:
        """Whether /usr, /etc and what is beside them are of an image, not the host's."""
        return self.containment == "lxc"

    @property
    def pid(self) -> int:
        """The worker's."""
        return self._worker.pid

    def close(self) -> None:
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        self._worker.wait(_PATIENCE_S)

    def run(self, command: Command, *, ends: bool = True, stdin: str = "", **policy: Any) -> Told:
        """Attack from inside our sandbox; fails the test when the sandbox is refused.

        Parameters
        ----------
        ends: whether a shell command is expected to come to its end: then that it did is checked.
        policy: arguments of `mxc_ops.Policy`; `limits` as a dict.
        """
        told = self.attempt(_marked(command) if ends else command, stdin=stdin, **policy)
        assert not told.error, told.stderr
        return _checked(told) if ends and isinstance(command, str) else told

    def attempt(self, command: Command, *, stdin: str = "", **policy: Any) -> Told:
        """The same; a refusal is an answer too."""
        return self.begin(command, stdin=stdin, **policy).told()

    def begin(self, command: Command, *, stdin: str = "", **policy: Any) -> Pending:
        """Start an attack from inside our sandbox, and go on."""
        arguments = {"command": _words(command), "policy": _plain(policy), "stdin": stdin}
        return self._ask("sandbox", **arguments)

    def upstream(self, command: Command, *, ends: bool = True, **policy: Any) -> Told:
        """Attack from inside bare bubblewrap with upstream's arguments for the same policy."""
        argv = upstream.upstream_argv(_shell_words(_marked(command) if ends else command), **policy)
        return self._bubblewrap(argv, ends=ends and isinstance(command, str))

    def bare(self, command: Command, *options: str, **policy: Any) -> Told:
        """Attack from inside the weakest one: the whole root, writable, with `options` and the policy."""
        argv = upstream.bare_argv(_shell_words(_marked(command)), *options, **policy)
        return self._bubblewrap(argv, ends=isinstance(command, str))

    def program(self, argv: Sequence[str | Path], **settings: Any) -> Told:
        """Run something outside of any sandbox, as this caller."""
        return _told(self._ask("program", argv=[str(word) for word in argv], **settings).value())

    def on_terminal(self, argv: Sequence[str | Path]) -> Told:
        """The same, with a new terminal as its controlling one."""
        return _told(self._ask("program_on_terminal", argv=[str(word) for word in argv]).value())

    def call(self, source: str, **arguments: Any) -> Any:
        """Run ``main(**arguments)`` of some Python source in the worker; it has `sandbox` and `program`."""
        return self.begin_call(source, **arguments).value()

    def begin_call(self, source: str, **arguments: Any) -> Pending:
        return self._ask("call", source=source, arguments=_plain(arguments))

    def popen(self, argv: Sequence[str | Path], **settings: Any) -> subprocess.Popen[bytes]:
        """Start a process of its own as this caller; with ``@python`` as first word, this caller's Python."""
        words = [self.python if word == "@python" else str(word) for word in argv]
        return subprocess.Popen[bytes]([*self._become(), *words], env=self.environment, cwd="/", **settings)

    def bind(self, source: Path, target: Path) -> None:
        """Make a second mount, as root, that this caller sees; it goes with the worker at the latest."""
        self._in_mounts("mount", "--bind", str(source), str(target))

    def unbind(self, target: Path) -> None:
        self._in_mounts("umount", str(target))

    def collect(self, number: int) -> Any:
        assert self._worker.stdout is not None
        while number not in self._answers:
            line = self._worker.stdout.readline()
            assert line, f"the worker of {self.name} ended with {self._worker.wait(5)}"
            answer = json.loads(line)
            self._answers[answer["id"]] = answer
        answer = self._answers.pop(number)
        assert "broken" not in answer, answer.get("broken")
        return answer["value"]

    def _ask(self, door: str, **arguments: Any) -> Pending:
        assert self._worker.stdin is not None
        self._sent += 1
        self._worker.stdin.write(json.dumps({"id": self._sent, "door": door, "arguments": arguments}) + "\n")
        self._worker.stdin.flush()
        return Pending(self, self._sent)

    def _bubblewrap(self, argv: Sequence[str], *, ends: bool) -> Told:
        told = _told(self._ask("program", argv=list(argv)).value())
        return _checked(told) if ends else told

    def _become(self, *, own_mounts: bool = False) -> list[str]:
        if os.geteuid() != 0:
            return []
        mounts = ["unshare", "--mount", "--propagation", "private"] if own_mounts else []
        ids = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"] if self.uid else []
        return [*mounts, *ids]

    def _in_mounts(self, *argv: str) -> None:
        subprocess.run(["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", *argv], check=True)


def remove_tree(path: Path) -> None:
    """Remove what an attack may have left without permissions."""
    shutil.rmtree(path, ignore_errors=True)


def _told(value: Mapping[str, Any]) -> Told:
    return Told(
        exit_code=value.get("exit_code"),
        stdout=value.get("stdout", ""),
        stderr=value.get("stderr", ""),
        error=value.get("error", ""),
        codes=tuple(value.get("codes", ())),
        outcome=value.get("outcome", ""),
        limits={name: (pair[0], pair[1]) for name, pair in value.get("limits", {}).items()},
    )


def _marked(command: Command) -> Command:
    return f"{command}\necho '{_OVER}'" if isinstance(command, str) else command


def _checked(told: Told) -> Told:
    assert _OVER in told.stdout, f"the attack did not run to its end: {told}"
    return Told(told.exit_code, told.stdout.replace(f"{_OVER}\n", ""), told.stderr, limits=told.limits)


def _words(command: Command) -> str | list[str]:
    return command if isinstance(command, str) else [str(word) for word in command]


def _shell_words(command: Command) -> str:
    return command if isinstance(command, str) else shlex.join(str(word) for word in command)


def _plain(value: Any) -> Any:
    """Paths as text, at any depth: requests travel as JSON."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
