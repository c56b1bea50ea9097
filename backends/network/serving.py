"""The process that serves a sandbox's openings: its filtering proxy, and its forwards (effectful)."""

from __future__ import annotations

import json
import os
import sys
from _socket import AF_UNIX, SHUT_RDWR, SOCK_CLOEXEC, SOCK_STREAM, socketpair
from contextlib import suppress
from select import POLLIN, poll
from signal import SIGKILL, pidfd_send_signal

from backends import process
from backends.egress.settings import EgressSettings, Rules, encode, encode_replace
from backends.errors import LaunchFailed, Problem
from backends.frozen import replace
from backends.inside.codec import spec_memfd

__all__ = ["Served"]

_ANSWER_S = 10.0
_END_S = 5.0
_MOST_ANSWER = 65536
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Isolated from the caller's variables and folder; where we, and what we need, are imported from it must know.
_BOOT = (
    "import sys; number, root, *others = sys.argv[1:]; sys.path.insert(0, root); sys.path += others;"
    " from backends.egress.__main__ import main; sys.exit(main([number]))"
)


class Served:
    """The process as it runs. Connections that come before it is ready wait at its sockets."""

    def __init__(self, settings: EgressSettings) -> None:
        """Start it.

        Parameters
        ----------
        settings: all but `control` and `owner`, which are made here. The descriptors stay the caller's.

        Raises `OSError`.
        """
        inherited = [listener.fd for listener in settings.listeners]
        inherited += [one for one in (settings.events, settings.sockets) if one is not None]
        self._owner = os.getpid()
        self._heard = b""
        self._control, theirs = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        owner = os.pidfd_open(os.getpid())
        told = spec_memfd(encode(replace(settings, control=theirs.fileno(), owner=owner)))
        try:
            others = (path for path in sys.path if path.startswith("/"))
            argv = (sys.executable, "-I", "-c", _BOOT, str(told), _ROOT, *others)
            self._child = process.spawn(argv, (null, null, null), (told, theirs.fileno(), owner, *inherited))
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()
            os.close(owner)
            os.close(told)
            os.close(null)

    def replace(self, rules: Rules) -> None:
        """Put these rules in the place of all that hold; connections that they do not allow are closed.

        Raises `LaunchFailed` when it has gone, or does not answer, and so ends: no name is reached any more;
        or when it refuses them, and those before hold.
        """
        try:
            self._control.settimeout(_ANSWER_S)
            self._control.sendall(encode_replace(rules))
            answer = json.loads(self._line())
            while "ready" in answer:
                answer = json.loads(self._line())
        except BaseException as error:
            with suppress(OSError):  # an answer that comes late must not be taken for the next one
                self._control.shutdown(SHUT_RDWR)
            if isinstance(error, OSError | ValueError):
                raise _lost(str(error)) from error
            raise
        if not answer.get("ok"):
            raise _lost(str(answer.get("error")))

    @property
    def has_ended(self) -> bool:
        """By itself, which it never does of its own will: nothing is let through any more."""
        waiting = poll()
        waiting.register(self._child.pidfd, POLLIN)
        return bool(waiting.poll(0))

    def close(self) -> None:
        """It ends, and every connection with it. Idempotent.

        One that is not ready yet has served nobody, and has nothing to write down.
        """
        if self._control.fileno() < 0:
            return
        served = self._has_said_something()
        if os.getpid() == self._owner:
            with suppress(OSError):  # a fork of ours may hold a copy of it
                self._control.shutdown(SHUT_RDWR)
        self._control.close()
        if os.getpid() != self._owner:
            return
        waiting = poll()
        waiting.register(self._child.pidfd, POLLIN)
        if not served or not waiting.poll(_END_S * 1000):
            pidfd_send_signal(self._child.pidfd, SIGKILL)
        process.reap(self._child)
        os.close(self._child.pidfd)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):  # it may not have been started
            self.close()

    def _has_said_something(self) -> bool:
        waiting = poll()
        waiting.register(self._control.fileno(), POLLIN)
        return bool(self._heard or waiting.poll(0))

    def _line(self) -> bytes:
        waiting = poll()
        waiting.register(self._control.fileno(), POLLIN)
        while b"\n" not in self._heard:
            if not waiting.poll(_ANSWER_S * 1000):
                raise TimeoutError("it does not answer")
            piece = self._control.recv(_MOST_ANSWER)
            if not piece:
                raise ConnectionResetError("it has ended")
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return line


def _lost(why: str) -> LaunchFailed:
    return LaunchFailed(Problem("proxy_lost", "/mxcOps/network", f"the sandbox's filtering proxy: {why}"))
