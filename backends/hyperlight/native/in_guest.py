"""What runs in the machine around a program; its text is the code that the packages are given.

The packages' Python runs code in names that stay, tells an exception by its last line alone, says 1 for
``sys.exit()``, and hands over what was printed when all is over. A program is to find what it finds
elsewhere: names of its own as ``__main__``, ``sys.argv``, its environment, streams that arrive while it runs,
byte for byte, and the exit code of ``python3 -c``. The streams go through tools: functions of the worker's
that are called from here, as the packages document them.

That Python is 3.14 and has hardly any library (`guest_modules`): no ``__future__`` and no ``traceback``
either.
"""

import atexit
import binascii
import io
import json
import os
import random
import sys
import types
import typing

_PIECE = 8_000  # in base64 and JSON less than the 16 KiB that a call to the host may take
_INTERRUPTED = 130

CallTool = typing.Callable[..., typing.Any]


class _Output(io.RawIOBase):
    """A stream to the host, whose descriptor there is `number`."""

    def __init__(self, call_tool: CallTool, number: int) -> None:
        self._call_tool, self._number = call_tool, number

    def writable(self) -> bool:
        return True

    def write(self, data: typing.Any, /) -> int:
        piece = bytes(data[:_PIECE])
        text = binascii.b2a_base64(piece, newline=False).decode()
        error = self._call_tool("write", number=self._number, data=text)
        if error:
            raise OSError(error, os.strerror(error))
        return len(piece)


class _Input(io.RawIOBase):
    """The standard input that the worker has."""

    def __init__(self, call_tool: CallTool) -> None:
        self._call_tool = call_tool

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: typing.Any, /) -> int:
        data = binascii.a2b_base64(self._call_tool("read", size=min(len(buffer), _PIECE)))
        buffer[: len(data)] = data
        return len(data)


def run_program(call_tool: CallTool) -> typing.NoReturn:
    """Ask the worker for the program, run it as ``python3 -c`` does, and exit as that would."""
    program = json.loads(binascii.a2b_base64(call_tool("program")))
    os.environ.clear()
    os.environ.update(program["environment"])
    sys.argv = program["argv"]
    random.seed()  # the machine's memory is that of a build long ago: without this, all would draw the same
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(
        io.BufferedReader(_Input(call_tool)), encoding="utf-8", errors="surrogateescape"
    )
    sys.stdout = sys.__stdout__ = _text(_Output(call_tool, 1), "surrogateescape", by_line=False)
    sys.stderr = sys.__stderr__ = _text(_Output(call_tool, 2), "backslashreplace", by_line=True)
    names = types.ModuleType("__main__")
    vars(names)["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = names
    sys.exit(_run(program["source"], vars(names)))


def _text(raw: io.RawIOBase, errors: str, *, by_line: bool) -> io.TextIOWrapper:
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding="utf-8", errors=errors, newline="\n", line_buffering=by_line)


def _run(source: str, names: dict[str, typing.Any]) -> int:
    code = 0
    try:
        exec(compile(source, "<string>", "exec", dont_inherit=True), names)  # noqa: S102 - what it is for
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException as error:
        _show(error)
        code = _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    try:
        atexit._run_exitfuncs()  # type: ignore[attr-defined]
    except BaseException as error:
        _show(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            if not stream.closed:
                stream.flush()
        except BaseException:
            code = 120
    return code


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    try:
        print(end.code, file=sys.stderr)
    except BaseException:
        return 120
    return 1


def _show(error: BaseException) -> None:
    """What went wrong, without the frame of ours below it."""
    error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ else None
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException:
        sys.__excepthook__(type(error), error, error.__traceback__)
