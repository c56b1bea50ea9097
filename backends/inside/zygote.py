"""The zygote: an interpreter in a guest that has imported what programs import, and forks for each of them.

The agent starts it as root with one socket. For each byte that comes with a descriptor of another socket, it
makes a spare: a grandchild, so that the agent becomes its parent, which says "R" on its socket and waits.
When the agent answers with the request (the records of an EXEC) and three streams, the spare becomes the
program: it restricts itself as the agent restricts any program, closes the socket, which says that it has
started, and runs the source as ``python3 -c`` would. What goes wrong before that is sent back as the outcome.

Byte "F" asks for a spare that has given up the means to get privileges, "P" for one that has not.

It runs in the guest's own Python, 3.9 or later, with the standard library only.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import ctypes
import datetime
import errno
import fcntl
import functools
import gc
import io
import itertools
import json
import math
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
import types
import typing
from importlib.machinery import BuiltinImporter

# Imported for the programs' sake: they find them loaded.
_FOR_PROGRAMS = (collections, datetime, functools, itertools, json, math, pathlib, re, shutil, subprocess)
_FOR_PROGRAMS_TOO = (tempfile, time, traceback, typing)

_RECORD = struct.Struct("<II")
_OUTCOME = struct.Struct("<IiQQ256s")
_ARG, _ENV, _CWD, _USER, _RLIMIT, _UMASK, _TTY = 1, 2, 3, 4, 5, 6, 7
_ZYGOTE, _SECCOMP, _PRIVILEGED = 10, 11, 13
_STEP_PIPES, _STEP_TERMINAL, _STEP_IDENTITY, _STEP_RLIMIT, _STEP_CWD = 3, 4, 8, 9, 10
_STEP_SECCOMP, _STEP_ZYGOTE = 11, 13
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 4, 22, 38, 2
_CAPABILITY_VERSION_3 = 0x20080522
_LIBC = ctypes.CDLL(None, use_errno=True)

Records = dict[int, list[bytes]]


class _Unable(Exception):
    """A step of becoming the program failed."""

    def __init__(self, step: int, error: int, subject: bytes = b"") -> None:
        super().__init__(step)
        self.outcome = _OUTCOME.pack(step, error, 0, 0, subject[:255])


def wait_for_program(control: socket.socket) -> str:
    """Make spares; returns only in one that has become a program, with the source to run.

    Ends the process when the agent does.
    """
    control.send(b"Z")
    while True:
        word, fds, _flags, _from = socket.recv_fds(control, 1, 1)
        if not word:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            if os.fork() != 0:
                os._exit(0)
            control.close()
            return _be_spare(socket.socket(fileno=fds[0]), privileged=word == b"P")
        os.close(fds[0])
        os.waitpid(pid, 0)


def _be_spare(agent: socket.socket, *, privileged: bool) -> str:
    os.setsid()
    if not privileged:
        _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _prepare()
    _rehearse()
    agent.send(b"R")
    word, fds, _flags, _from = socket.recv_fds(agent, 1, 4)
    if not word:
        os._exit(0)
    try:
        records = _read_records(fds[0])
        _take_streams(records, fds[1:])
        _restrict(records)
        _take_environment(records)
        _filter(records)
    except _Unable as unable:
        agent.send(unable.outcome)
        os._exit(127)
    except Exception as error:
        agent.send(_OUTCOME.pack(_STEP_ZYGOTE, getattr(error, "errno", None) or errno.EIO, 0, 0, b""))
        os._exit(127)
    agent.close()
    return os.fsdecode(records[_ZYGOTE][0][:-1])


def _read_records(fd: int) -> Records:
    request = os.pread(fd, os.fstat(fd).st_size, 0)
    os.close(fd)
    records: Records = {}
    offset = 0
    while offset < len(request):
        tag, length = _RECORD.unpack_from(request, offset)
        offset += _RECORD.size
        records.setdefault(tag, []).append(request[offset : offset + length])
        offset += length
    return records


def _take_streams(records: Records, fds: list[int]) -> None:
    try:
        if _TTY in records:
            fcntl.ioctl(fds[0], termios.TIOCSCTTY, 0)
        for stream, fd in enumerate(fds):
            os.dup2(fd, stream)
            os.close(fd)
    except OSError as error:
        step = _STEP_TERMINAL if _TTY in records else _STEP_PIPES
        raise _Unable(step, error.errno or 0) from None


def _prctl(step: int, option: int, argument: object, more: object = 0) -> None:
    if _LIBC.prctl(option, argument, more, 0, 0) < 0:
        raise _Unable(step, ctypes.get_errno())


def _restrict(records: Records) -> None:
    os.umask(int.from_bytes(records[_UMASK][0], "little") & 0o777)
    for record in records.get(_RLIMIT, ()):
        number, soft, hard = struct.unpack("<IQQ", record)
        try:
            resource.setrlimit(number, (_signed(soft), _signed(hard)))
        except (OSError, ValueError) as error:
            raise _Unable(_STEP_RLIMIT, getattr(error, "errno", None) or errno.EINVAL) from None
    uid, gid = struct.unpack("<II", records[_USER][0])
    try:
        if os.geteuid() == 0 or os.geteuid() != uid:
            os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise _Unable(_STEP_IDENTITY, error.errno or 0) from None
    if _PRIVILEGED not in records:
        header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
        if _LIBC.capset(header, bytes(24)) < 0:
            raise _Unable(_STEP_IDENTITY, ctypes.get_errno())
    # As a new program is: whose memory it is decides what its user may see of it in /proc.
    _prctl(_STEP_IDENTITY, _PR_SET_DUMPABLE, 1)
    cwd = records[_CWD][0][:-1]
    try:
        os.chdir(cwd)
    except OSError as error:
        raise _Unable(_STEP_CWD, error.errno or 0, cwd) from None


def _signed(limit: int) -> int:
    return limit - (1 << 64) if limit >= 1 << 63 else limit


def _prepare() -> None:
    """What can be done before the request is known: in a machine just restored all that is new is slow."""
    os.environ.clear()
    time.tzset()
    # What is found out about a stream when it is made is to be true of pipes, which take these places.
    ends = os.pipe()
    for stream, fd in enumerate((ends[0], ends[1], ends[1])):
        os.dup2(fd, stream)
    for end in ends:
        os.close(end)
    sys.stdin = sys.__stdin__ = _text_stream(0, "<stdin>", "r", "surrogateescape")
    sys.stdout = sys.__stdout__ = _text_stream(1, "<stdout>", "w", "surrogateescape")
    sys.stderr = sys.__stderr__ = _text_stream(2, "<stderr>", "w", "backslashreplace")


def _rehearse() -> None:
    """Do what a first program does: of a fork's memory only what it has written to is its own already."""
    stdout, sys.stdout = sys.stdout, _text_stream(os.open(os.devnull, os.O_WRONLY), "", "w", "strict")
    names: dict[str, object] = {"__builtins__": sys.modules["builtins"]}
    exec(compile("print(1)", "<string>", "exec", dont_inherit=True), names)  # noqa: S102
    sys.stdout.flush()
    os.close(sys.stdout.fileno())
    sys.stdout = stdout
    random.seed()
    gc.collect()


def _text_stream(fd: int, name: str, mode: str, errors: str, unbuffered: bool = False) -> io.TextIOWrapper:
    raw = io.FileIO(fd, mode, closefd=False)
    raw.name = name  # type: ignore[misc]
    buffered = io.BufferedReader(raw) if mode == "r" else raw if unbuffered else io.BufferedWriter(raw)
    stream = io.TextIOWrapper(
        typing.cast("typing.BinaryIO", buffered),
        encoding="utf-8",
        errors=errors,
        newline=None if mode == "r" else "\n",
        line_buffering=fd == 2,
        write_through=unbuffered,
    )
    stream.mode = mode  # type: ignore[misc]
    return stream


def _take_environment(records: Records) -> None:
    for record in records.get(_ENV, ()):
        name, _, value = record[:-1].partition(b"=")
        os.environb[name] = value
    if "TZ" in os.environ:
        time.tzset()
    sys.argv = [os.fsdecode(record[:-1]) for record in records[_ARG]]
    more = os.environ.get("PYTHONPATH", "")
    sys.path[0:1] = ["", *filter(None, more.split(":"))]
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout = sys.__stdout__ = _text_stream(1, "<stdout>", "w", "surrogateescape", True)
        sys.stderr = sys.__stderr__ = _text_stream(2, "<stderr>", "w", "backslashreplace", True)
    if _TTY in records:
        for stream in (sys.stdin, sys.stdout):
            typing.cast("io.TextIOWrapper", stream).reconfigure(line_buffering=True)
    # Two clones of a machine have the same generators until now.
    random.seed()


def _filter(records: Records) -> None:
    if _SECCOMP not in records:
        return
    program = ctypes.create_string_buffer(records[_SECCOMP][0], len(records[_SECCOMP][0]))
    count = len(records[_SECCOMP][0]) // 8
    head = ctypes.create_string_buffer(struct.pack("@HP", count, ctypes.addressof(program)))
    _prctl(_STEP_SECCOMP, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(head))


def run(source: str) -> typing.NoReturn:
    """Run the source as ``python3 -c`` does, and end as it does, but without taking the interpreter apart."""
    main = types.ModuleType("__main__")
    vars(main).update(__loader__=BuiltinImporter, __builtins__=sys.modules["builtins"], __annotations__={})
    sys.modules["__main__"] = main
    code = 0
    interrupted = False
    try:
        exec(compile(source, "<string>", "exec", dont_inherit=True), vars(main))  # noqa: S102
    except SystemExit as exit_:
        code = _exit_code(exit_)
    except BaseException as error:
        _show(error)
        code = 1
        interrupted = isinstance(error, KeyboardInterrupt)
    code = _finish(code)
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def _exit_code(exit_: SystemExit) -> int:
    if exit_.code is None or isinstance(exit_.code, int):
        return (exit_.code or 0) & 0xFF
    with contextlib.suppress(Exception):
        print(exit_.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    """What went wrong, without the frame of ours below it."""
    trace = error.__traceback__
    error.__traceback__ = sys.last_traceback = trace.tb_next if trace else None
    sys.last_type, sys.last_value = type(error), error
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException:
        sys.__excepthook__(type(error), error, error.__traceback__)


def _finish(code: int) -> int:
    """Threads, exit functions, open files, then the program's names: what they alone held is finalized."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()  # type: ignore[attr-defined]
    code = _flush(code)
    for kind in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
        for file in [found for found in gc.get_objects() if issubclass(type(found), kind)]:
            with contextlib.suppress(BaseException):
                file.flush()
    names = vars(sys.modules["__main__"])
    for name in sorted(names, key=lambda name: not name.startswith("_")):
        names[name] = None
    gc.collect()
    return _flush(code)


def _flush(code: int) -> int:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception:
            code = 120
    return code


def _preload() -> None:
    """What runs cells, where it is packed beside this: hosts that mean just that need not compile it."""
    beside = pathlib.Path(__file__).with_name("preloaded.py")
    if beside.exists():
        exec(compile(beside.read_text(), str(beside), "exec"), {})  # noqa: S102


if __name__ == "__main__":
    _preload()
    gc.collect()
    gc.freeze()
    run(wait_for_program(socket.socket(fileno=int(sys.argv[1]))))
