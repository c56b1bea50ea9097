"""A plain, blocking client of the guest agent: it sends what it is told and takes what comes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from backends.frozen import frozen
from backends.inside import agent_codec, build, store
from backends.inside.agent_protocol import (
    MAX_PAYLOAD,
    WINDOW,
    Channel,
    Frame,
    GuestCommand,
    GuestDone,
    GuestEnded,
    GuestFailed,
    GuestFiles,
    Kind,
    Welcome,
)

DEADLINE_S = 30
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--mount-proc")
PATH = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)


@frozen
class Outcome:
    """What became of one program."""

    stdout: bytes
    stderr: bytes
    ended: GuestEnded | None
    failed: GuestFailed | None

    @property
    def exit_code(self) -> int:
        assert self.ended is not None, self
        return os.waitstatus_to_exitcode(self.ended.status)


class AgentClient:
    """The host's end of an agent's connection. Frames that nobody asked for yet are kept, by stream."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(DEADLINE_S)
        self.kept: dict[int, list[Frame]] = {}
        self.last_stream = 0
        self._bytes = bytearray()

    def send(self, kind: Kind, stream: int = 0, payload: bytes = b"", flags: int = 0) -> None:
        self.connection.sendall(agent_codec.encode_frame(Frame(kind, stream, payload, flags)))

    def hello(self) -> Welcome:
        self.send(Kind.HELLO, 0, agent_codec.hello())
        while (frame := self._read_frame()).kind is not Kind.WELCOME:
            pass
        self.kept.clear()
        return agent_codec.read_welcome(frame.payload)

    def new_stream(self) -> int:
        self.last_stream += 1
        return self.last_stream

    def next_frame(self, stream: int) -> Frame:
        """The next frame of a stream, whatever comes of others meanwhile. Raises EOFError at the end."""
        while not self.kept.get(stream):
            frame = self._read_frame()
            self.kept.setdefault(frame.stream, []).append(frame)
        return self.kept[stream].pop(0)

    def wait_for(self, stream: int, *kinds: Kind) -> Frame:
        """The next frame of one of these kinds; what comes before it is dropped."""
        while (frame := self.next_frame(stream)).kind not in kinds:
            pass
        return frame

    def ask(self, kind: Kind, payload: bytes = b"", flags: int = 0) -> Frame:
        """One request with one answer."""
        stream = self.new_stream()
        self.connection.sendall(
            agent_codec.encode_message(kind, stream, payload)
            if not flags
            else agent_codec.encode_frame(Frame(kind, stream, payload, flags))
        )
        return self.next_frame(stream)

    def start(self, spec: GuestCommand) -> int:
        """Send the EXEC; the stream's number."""
        stream = self.new_stream()
        self.connection.sendall(agent_codec.encode_message(Kind.EXEC, stream, agent_codec.command(spec)))
        return stream

    def run(self, spec: GuestCommand, stdin: bytes = b"") -> Outcome:
        stream = self.start(spec)
        for place in range(0, min(len(stdin), WINDOW), MAX_PAYLOAD):
            self.send(Kind.INPUT, stream, stdin[place : place + MAX_PAYLOAD])
        if not spec.no_input and spec.tty is None:
            self.send(Kind.INPUT_END, stream)
        return self.finish(stream)

    def finish(self, stream: int) -> Outcome:
        """Everything up to the end, credit given as output comes."""
        outputs = {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}
        while True:
            frame = self.next_frame(stream)
            if frame.kind is Kind.OUTPUT:
                channel = Channel(frame.flags)
                outputs[channel] += frame.payload
                self.send(Kind.CREDIT, stream, agent_codec.number(len(frame.payload)), channel)
            elif frame.kind in (Kind.ENDED, Kind.FAILED):
                ended = agent_codec.read_ended(frame.payload) if frame.kind is Kind.ENDED else None
                failed = agent_codec.read_failed(frame.payload) if frame.kind is Kind.FAILED else None
                return Outcome(bytes(outputs[Channel.STDOUT]), bytes(outputs[Channel.STDERR]), ended, failed)

    def put(self, spec: GuestFiles, archive: bytes) -> GuestDone | GuestFailed:
        """An archive unpacked in there."""
        stream = self.new_stream()
        self.connection.sendall(agent_codec.encode_message(Kind.PUT, stream, agent_codec.files(spec)))
        credit, left = WINDOW, memoryview(archive)
        while left:
            size = min(credit, MAX_PAYLOAD, len(left))
            if size == 0:
                frame = self.wait_for(stream, Kind.INPUT_CREDIT, Kind.FAILED, Kind.INPUT_CLOSED)
                if frame.kind is Kind.INPUT_CREDIT:
                    credit += agent_codec.read_number(frame.payload)
                    continue
                self.kept.setdefault(stream, []).insert(0, frame)
                break
            self.send(Kind.INPUT, stream, bytes(left[:size]))
            left, credit = left[size:], credit - size
        self.send(Kind.INPUT_END, stream)
        return done_or_failed(self.wait_for(stream, Kind.DONE, Kind.FAILED))

    def get(self, spec: GuestFiles) -> tuple[bytes, GuestDone | GuestFailed]:
        stream = self.new_stream()
        self.connection.sendall(agent_codec.encode_message(Kind.GET, stream, agent_codec.files(spec)))
        return self.collect(stream)

    def collect(self, stream: int) -> tuple[bytes, GuestDone | GuestFailed]:
        """The archive that a GET answers, credit given as it comes."""
        archive = bytearray()
        while (frame := self.next_frame(stream)).kind not in (Kind.DONE, Kind.FAILED):
            if frame.kind is Kind.OUTPUT:
                archive += frame.payload
                self.send(Kind.CREDIT, stream, agent_codec.number(len(frame.payload)), Channel.STDOUT)
        return bytes(archive), done_or_failed(frame)

    def _read_frame(self) -> Frame:
        length, kind, flags, stream = agent_codec.HEADER.unpack(self._read(agent_codec.HEADER.size))
        return Frame(Kind(kind), stream, self._read(length), flags)

    def _read(self, count: int) -> bytes:
        while len(self._bytes) < count:
            more = self.connection.recv(1 << 17)
            if not more:
                raise EOFError
            self._bytes += more
        taken = bytes(self._bytes[:count])
        del self._bytes[:count]
        return taken


def done_or_failed(frame: Frame) -> GuestDone | GuestFailed:
    if frame.kind is Kind.DONE:
        return agent_codec.read_done(frame.payload)
    assert frame.kind is Kind.FAILED, frame
    return agent_codec.read_failed(frame.payload)


def agent_path() -> Path:
    found = store.find_program(store.AGENT)
    return Path(found) if found else build.build_program(store.AGENT)


@contextmanager
def private_agent(
    setup: str = "", interpreter: tuple[str, ...] = (), *, greet: bool = True
) -> Generator[AgentClient]:
    """An agent as process 1 of namespaces of its own (by root).

    Parameters
    ----------
    setup: shell commands in its mount namespace before it starts.
    interpreter: that waits, as the agent takes it: ``zygote`` or ``spare``, and its words.
    """
    ours, theirs = socket.socketpair()
    command = (
        f"ulimit -Sn 1024; ulimit -Hn 4096; {setup}\n"
        f"exec {agent_path()} {theirs.fileno()} {' '.join(interpreter)}"
    )
    process = subprocess.Popen(
        [*UNSHARE, "sh", "-ec", command],
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env={"PATH": os.environ["PATH"]},
    )
    theirs.close()
    client = AgentClient(ours)
    try:
        if greet:
            client.hello()
        yield client
    finally:
        ours.close()
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise
