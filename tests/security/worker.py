"""A long-lived process that makes attacks for the tests as one user: JSON lines in, JSON lines out.

It runs as ``python -c``, with the project importable. Each request has a thread of its own, so that several
sandboxes can be there at once.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from typing import Any

from mxc_ops import Limits, MxcError, Policy, Session, run

CONTAINMENT = os.environ["CONTAINMENT"]
_answers = threading.Lock()


def sandbox(command: Any, policy: dict[str, Any], stdin: str = "") -> dict[str, Any]:
    """One run through the project's Python API."""
    limits = Limits(**policy.pop("limits", {}))
    try:
        asked = Policy(containment=CONTAINMENT, **policy, limits=limits)
        if "SESSION" in os.environ:
            with Session.open(asked) as session:
                result = session.exec(command, input=stdin.encode())
        else:
            result = run(asked, command, input=stdin.encode())
    except MxcError as error:
        return {"error": error.code, "codes": [p.code for p in error.problems], "stderr": str(error)}
    return {
        "exit_code": result.exit_code,
        "stdout": result.stdout.decode(errors="surrogateescape"),
        "stderr": result.stderr.decode(errors="surrogateescape"),
        "outcome": result.outcome.value,
        "limits": {limit.name: [limit.mechanism, limit.hit] for limit in result.limits},
    }


def program(
    argv: list[str], stdin: str = "", descriptors: list[int] | None = None, timeout_s: float = 30
) -> dict[str, Any]:
    """Start a program directly, with this process's environment, and wait for it."""
    done = subprocess.run(
        argv,
        input=stdin.encode(),
        capture_output=True,
        pass_fds=descriptors or (),
        timeout=timeout_s,
        check=False,
    )
    return _ended(done.returncode, done.stdout, done.stderr)


def program_on_terminal(argv: list[str]) -> dict[str, Any]:
    """Start a program with a new pty as its controlling terminal."""
    pid, ours = pty.fork()
    if pid == 0:
        os.execvp(argv[0], argv)
    output = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:
            break
        if not chunk:
            break
        output += chunk
    _, status = os.waitpid(pid, 0)
    os.close(ours)
    return _ended(os.waitstatus_to_exitcode(status), output, b"")


def call(source: str, arguments: dict[str, Any]) -> Any:
    """Run ``main(**arguments)`` of some Python source in this process."""
    names: dict[str, Any] = {"sandbox": sandbox, "program": program, "CONTAINMENT": CONTAINMENT}
    exec(compile(source, "<attack>", "exec"), names)
    return names["main"](**arguments)


def _ended(status: int, stdout: bytes, stderr: bytes) -> dict[str, Any]:
    return {
        "exit_code": status,
        "stdout": stdout.decode(errors="surrogateescape"),
        "stderr": stderr.decode(errors="surrogateescape"),
    }


_DOORS = {"sandbox": sandbox, "program": program, "program_on_terminal": program_on_terminal, "call": call}


def _serve(request: dict[str, Any]) -> None:
    try:
        answer = {"id": request["id"], "value": _DOORS[request["door"]](**request["arguments"])}
    except BaseException as error:
        answer = {"id": request["id"], "broken": f"{type(error).__name__}: {error}"}
    with _answers:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def main() -> None:
    for line in sys.stdin:
        threading.Thread(target=_serve, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    main()
