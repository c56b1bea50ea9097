"""The owner's line to the proxy: JSON lines on a stream socket. When it ends, so does the proxy."""

from __future__ import annotations

import json
import socket
from typing import Any, cast

from backends.egress.gate import Gate
from backends.egress.settings import decode_rules
from backends.egress.streams import Stream

__all__ = ["LONGEST_LINE", "serve_control"]

LONGEST_LINE = 4 << 20


async def serve_control(gate: Gate, control: socket.socket) -> None:
    """Say that the proxy serves, then do what is asked for, until the other side has gone.

    A line that is longer than `LONGEST_LINE` bytes ends it too: no rule is left standing that the owner
    meant to replace.
    """
    stream = Stream(control)
    waiting = bytearray()
    try:
        await stream.send(b'{"ready":true}\n')
        while portion := await stream.receive():
            waiting += portion
            *lines, rest = waiting.split(b"\n")
            waiting = rest
            for line in lines:
                await stream.send(await _answer(gate, bytes(line)))
            if len(waiting) > LONGEST_LINE:
                return
    except OSError:
        return


async def _answer(gate: Gate, line: bytes) -> bytes:
    answer: dict[str, Any] = {"ok": True}
    try:
        await _obey(gate, json.loads(line))
    except (ValueError, RecursionError) as error:
        answer = {"ok": False, "error": str(error) or "the line is malformed"}
    return json.dumps(answer, separators=(",", ":")).encode() + b"\n"


async def _obey(gate: Gate, message: object) -> None:
    fields = cast("dict[str, Any]", message if isinstance(message, dict) else {})
    if fields == {"op": "ping"}:
        return
    if fields.get("op") != "replace":
        raise ValueError("there are the operations 'replace' and 'ping'")
    await gate.replace(decode_rules(fields))
