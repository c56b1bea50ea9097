"""Logs of runs that change something, on the controller, one for each host: ``<run>/<host>.log``.

root's below ``/var/log/mxc-ops``, a user's below ``XDG_STATE_HOME`` (else ``~/.local/state``). The last runs
are kept, older ones are removed.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from mxc_ops.cli.text import printable
from mxc_ops.prep.messages import Event, Message
from mxc_ops.prep.report import Report

__all__ = ["HostLogs", "directory"]

KEPT_RUNS = 20
_QUIET = (Event.HOSTS, Event.ASK, Event.FINISHED)


def directory() -> Path:
    """Where this user's logs of preparations are kept."""
    if os.geteuid() == 0:
        return Path("/var/log/mxc-ops/prep")
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local/state"
    return base / "mxc-ops/prep"


class HostLogs:
    """Collects what is told of each host; writes nothing until something is changed."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}
        self._folder: Path | None = None

    def add(self, message: Message) -> None:
        """Take note of a message about a host."""
        if not message.host:
            return
        lines = _lines(message)
        if self._folder is None:
            self._lines.setdefault(message.host, []).extend(lines)
        elif lines:
            with suppress(OSError):
                _append(self._folder, message.host, lines)

    def keep(self, report: Report) -> None:
        """From now on write; the report tells where. A log that cannot be kept stops nothing."""
        try:
            base = directory()
            base.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder = base / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
            self._folder.mkdir(mode=0o700)
            for host, lines in self._lines.items():
                report.hosts[host].log = str(_append(self._folder, host, lines))
            for old in sorted(base.iterdir())[:-KEPT_RUNS]:
                if not _at_work(old):
                    shutil.rmtree(old, ignore_errors=True)
        except OSError:
            self._folder = None


def _at_work(folder: Path) -> bool:
    """Whether the run that the folder is named after may still write to it."""
    return Path("/proc", folder.name.rpartition("-")[2], "stat").exists()


def _append(folder: Path, host: str, lines: list[str]) -> Path:
    # Names that differ in what no file name should have still get logs of their own.
    bare = host.lstrip("@")
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", bare)
    mark = "" if plain == bare else f"-{sha256(host.encode()).hexdigest()[:6]}"
    path = folder / f"{plain}{mark}.log"
    with path.open("a", encoding="utf-8") as log:
        log.writelines(f"{printable(line)}\n" for line in lines)
    return path


def _lines(message: Message) -> list[str]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if message.event is Event.PLANNED:
        return [
            f"{now} planned {item['item']}: {item['before']} -> {item['after']}"
            for item in message.data["items"]
            if item["changes"] or item["message"]
        ]
    if message.event is Event.LOG:
        return [f"    {line}" for line in message.data["text"].splitlines()]
    if message.event is Event.PROBED:
        return [
            f"{now} tried out {probe['identifier']}: {probe['health']}: {probe['seen']}"
            for probe in message.data["probes"]
        ]
    if message.event in _QUIET:
        return []
    told = " ".join(f"{name}={value}" for name, value in message.data.items() if value not in ("", []))
    return [f"{now} {message.event.value} {told}"]
