"""What a supervisor answers on its ``control`` socket, however long it takes, for an event loop (asyncio)."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from typing import Any

from mxc_ops.session.control import MOST_LINE, answered, encoded, supervisor_lost

__all__ = ["ask_on_loop"]


async def ask_on_loop(sock: socket.socket, do: str, **order: Any) -> Mapping[str, Any]:
    """As `Control.ask`, without a limit of time and without a thread; whoever is cancelled hangs up.

    Parameters
    ----------
    sock: connected to ``control``; ours to close from now on.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=MOST_LINE)
    except BaseException:
        sock.close()
        raise
    try:
        writer.write(encoded(do, order))
        answer: Mapping[str, Any] = {"working": True}
        while "working" in answer:
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionResetError("it hung up")
            answer = json.loads(line)
    except (OSError, ValueError) as error:
        raise supervisor_lost(error) from error
    finally:
        writer.close()
    return answered(answer)
