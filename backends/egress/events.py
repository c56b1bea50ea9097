"""What the proxy tells of its decisions: JSON lines, without anything of what is said inside a connection.

Never a path, a query, a header or a credential. Who reads may be slow or gone: a line that cannot be written
at once is dropped, and the next one says how many were.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from backends.egress.bounds import NAMES_KEPT

__all__ = ["Events", "Value"]

Value = str | int | None

_LONGEST_TEXT = 253
_REFUSED_BURST = 4000
_REFUSED_PER_S = 500
"""How often it is refused a sandbox decides itself: it must not fill disks by it, nor hide the rest."""

_MOST_IN_FILE = 4 << 20
"""As of the rules' decisions: a file is in memory, outside of the sandbox's limits."""

_NAME_PAUSE_S = 1.0


class Events:
    """Writes to `fd`, which is made non-blocking; None: to nowhere.

    Parameters
    ----------
    now: the time of day, in seconds since 1970.
    clock: seconds, never running backwards.
    """

    def __init__(
        self,
        fd: int | None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fd = fd
        self._now = now
        self._clock = clock
        self._dropped = 0
        self._credit = float(_REFUSED_BURST)
        self._credited = clock()
        self._named: OrderedDict[str, float] = OrderedDict()
        self._room = _MOST_IN_FILE if fd is not None and stat.S_ISREG(os.fstat(fd).st_mode) else None
        if fd is not None:
            os.set_blocking(fd, False)

    def write(self, verdict: str, protocol: str, **fields: Value) -> None:
        """One line, of the fields that are neither None nor empty text; it never blocks and never fails.

        Lines that something was allowed, or has ended that was, are not limited in number.
        """
        if self._fd is None:
            return
        if verdict != "allowed" and "durationMs" not in fields and not self._has_credit():
            self._dropped += 1
            return
        stamp = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds")
        line: dict[str, Value] = {
            "ts": stamp.replace("+00:00", "Z"),
            "source": "proxy",
            "verdict": verdict,
            "protocol": protocol,
        }
        for key, value in fields.items():
            if value is not None and value != "":
                line[key] = value[:_LONGEST_TEXT] if isinstance(value, str) else value
        if self._dropped:
            line["dropped"] = self._dropped
        text = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        if self._room is not None and len(text) > self._room:
            self._dropped += 1
            return
        try:
            os.write(self._fd, text)
        except OSError:
            self._dropped += 1
        else:
            self._dropped = 0
            if self._room is not None:
                self._room -= len(text)

    def write_name(self, verdict: str, name: str, **fields: Value) -> None:
        """A line about a look-up: about the same name at most one a second."""
        now = self._clock()
        if now < self._named.get(name, now):
            return
        self._named[name] = now + _NAME_PAUSE_S
        self._named.move_to_end(name)
        if len(self._named) > NAMES_KEPT:
            self._named.popitem(last=False)
        self.write(verdict, "dns", name=name, **fields)

    def _has_credit(self) -> bool:
        now = self._clock()
        self._credit = min(self._credit + (now - self._credited) * _REFUSED_PER_S, float(_REFUSED_BURST))
        self._credited = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True
