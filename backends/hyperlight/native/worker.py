"""The process that the packages run a machine in; its text is run by the packages' interpreter.

It is started in bubblewrap by `launch`, and finds nothing there but the interpreter, the packages and the
hypervisor's device. Its own standard streams are the program's: what the packages print themselves goes to
`words`. What becomes of the run is told on `report`, a JSON object on each line: ``begun``, once the machine
asks for the program; then ``ended`` with its exit code, or ``failed`` with the packages' message. The tools'
arguments are the machine's, which is hostile.

The packages need Python 3.10, and so does this; it uses the standard library only.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

_FAILED = 70
_MOST_BYTES = 64 * 1024
_MOST_LETTERS = 2000


class _Streams:
    """The program's three, out of reach of what prints to 1 and 2; and the tools that serve them."""

    def __init__(self) -> None:
        self._fds = tuple(os.dup(number) for number in range(3))

    def read(self, size: int) -> str:
        wanted = max(0, min(int(size), _MOST_BYTES))
        return base64.b64encode(os.read(self._fds[0], wanted)).decode()

    def write(self, number: int, data: str) -> int:
        """0, or the number of the error."""
        if number not in (1, 2):
            return errno.EBADF
        left = memoryview(base64.b64decode(data))
        try:
            while left:
                left = left[os.write(self._fds[int(number)], left) :]
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def print(self, number: int, text: str) -> None:
        """What the packages kept of their own guest's output: nothing, as a rule."""
        self.write(number, base64.b64encode(text.encode("utf-8", "replace")).decode())


class _Program:
    """The program, for the guest to ask for."""

    def __init__(self, run: dict[str, Any], report: int) -> None:
        self.begun = False
        self._report = report
        names = ("source", "argv", "environment")
        self._text = base64.b64encode(json.dumps({name: run[name] for name in names}).encode()).decode()

    def hand_over(self) -> str:
        if not self.begun:
            self.begun = True
            _tell(self._report, {"begun": True})
        return self._text


def main(run_fd: int, report: int, words: int) -> NoReturn:
    """Run what `run_fd` describes.

    Parameters
    ----------
    run_fd: a file with a JSON object: ``packages``, ``module``, ``heap`` and ``stack`` for the packages,
        ``guest``, the code that they are given, and the program: ``source``, ``argv``, ``environment``.
    report: a file, for what became of it.
    words: a file, for what the packages print.
    """
    with open(run_fd, encoding="utf-8") as file:
        run: dict[str, Any] = json.load(file)
    streams, program = _Streams(), _Program(run, report)
    nothing = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((nothing, 0), (words, 1), (words, 2)):
        os.dup2(source, target)
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # the packages' calls do not look at what Python notes of one
    os.environ["TOKIO_WORKER_THREADS"] = (
        "1"  # the packages would start one for each processor: for HTTP alone
    )
    sys.path.insert(0, run["packages"])
    try:
        result = _run(run, streams, program)
        if not 0 <= result.exit_code <= 0xFF:  # their own panics are -1, with the message
            raise RuntimeError(result.stderr or f"the packages say {result.exit_code}")
        if not program.begun:
            raise RuntimeError(f"their Python did not take our code: {result.stderr}")
        streams.print(1, result.stdout)
        streams.print(2, result.stderr)
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"[:_MOST_LETTERS]
        _tell(report, {"failed": text})
        os._exit(_FAILED)
    _tell(report, {"ended": result.exit_code})
    # Without taking anything apart: the packages would give back their memory piece by piece.
    os._exit(result.exit_code)


def _run(run: dict[str, Any], streams: _Streams, program: _Program) -> Any:
    package: Any = import_module("hyperlight_sandbox")
    sandbox = package.Sandbox(
        backend="wasm", module_path=run["module"], heap_size=run["heap"], stack_size=run["stack"]
    )
    for name, tool in (("program", program.hand_over), ("read", streams.read), ("write", streams.write)):
        sandbox.register_tool(name, tool)
    return sandbox.run(run["guest"])


def _tell(report: int, what: dict[str, Any]) -> None:
    os.write(report, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
