"""A helper process that is asked by JSON lines, any number of questions at once; answers have their ids."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, cast

__all__ = ["Link", "Refused"]

READY = b"ready\n"
_ANSWER_S = 120


class Refused(Exception):
    """The helper could not do what was asked; `told` is its answer, with at least ``error``."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        super().__init__(told["error"])
        self.told = told


class Link:
    """Started at once; the helper ends at the end of its input, so also with us.

    Parameters
    ----------
    argv: its command; it says `READY` before it takes questions.
    """

    def __init__(self, argv: Sequence[str], **process: Any) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **process)
        self._waiting: dict[int, Future[Any]] = {}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        first = self._from.readline()
        assert first == READY, (argv, first)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, op: str, **fields: Any) -> Future[Any]:
        """Ask; the future has the answer's ``value``, or raises `Refused`."""
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._ids)
            self._waiting[number] = future
            self._to.write(json.dumps({"id": number, "op": op, **fields}).encode() + b"\n")
            self._to.flush()
        return future

    def ask(self, op: str, **fields: Any) -> Any:
        """Ask, and wait for the answer."""
        return self.send(op, **fields).result(_ANSWER_S)

    def close(self) -> None:
        self._to.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._from.close()

    def _read(self) -> None:
        for line in self._from:
            told = cast("dict[str, Any]", json.loads(line))
            future = self._waiting.pop(told["id"])
            if "error" in told:
                future.set_exception(Refused(told))
            else:
                future.set_result(told["value"])
        for future in self._waiting.values():
            future.set_exception(EOFError("the helper has ended"))
