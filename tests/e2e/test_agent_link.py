"""The guest agent's connection: greeted anew it has forgotten everything, and what is no frame ends it."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from backends.inside import agent_codec
from backends.inside.agent_protocol import (
    MAX_STREAMS,
    WINDOW,
    Channel,
    Flag,
    Frame,
    GuestCommand,
    Kind,
    Step,
)
from tests.unit.agent_client import PATH, AgentClient, private_agent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent is root in its namespaces")
CAT = GuestCommand(("cat",), PATH)


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentClient]:
    with private_agent() as client:
        yield client


def test_a_greeting_ends_everything_that_was_started_before(agent: AgentClient) -> None:
    daemon = GuestCommand(("sh", "-c", "setsid sleep 60 >/dev/null 2>&1 &"), PATH)
    agent.run(daemon)
    flood = agent.start(GuestCommand(("cat", "/dev/zero"), PATH))
    agent.wait_for(flood, Kind.OUTPUT)
    agent.send(Kind.EXEC, 900, b"half a message", Flag.MORE)
    agent.hello()
    agent.send(Kind.INPUT, flood, b"to a stream that is gone")
    agent.last_stream = 0  # numbers may come again
    processes = agent.run(GuestCommand(("ps", "-eo", "comm"), PATH)).stdout.split()[1:]
    assert [name for name in processes if name not in (b"agent", b"ps")] == []
    report = agent_codec.read_report(agent.ask(Kind.REPORT).payload)
    assert (report.streams, report.processes) == (0, 1)


def test_a_greeting_ends_what_was_there_before_a_copy_could_be_made(
    agent: AgentClient,
) -> None:
    """At rest, it looks for others so that a copy need not: it must see them."""
    agent.run(GuestCommand(("sh", "-c", "setsid sleep 60 >/dev/null 2>&1 &"), PATH))
    assert agent.ask(Kind.SYNC).kind is Kind.DONE
    agent.hello()
    agent.last_stream = 0
    assert b"sleep" not in agent.run(GuestCommand(("ps", "-eo", "comm"), PATH)).stdout


def test_it_runs_out_of_streams_politely(agent: AgentClient) -> None:
    for stream in range(1, MAX_STREAMS + 1):
        agent.send(Kind.EXEC, stream, b"", Flag.MORE)
    agent.send(Kind.EXEC, MAX_STREAMS + 1, b"")
    failed = agent_codec.read_failed(agent.wait_for(MAX_STREAMS + 1, Kind.FAILED).payload)
    assert failed.step is Step.STREAMS
    agent.hello()
    agent.last_stream = 0
    assert agent.run(CAT, b"again").stdout == b"again"


def test_what_is_said_about_streams_that_are_gone_is_passed_over(agent: AgentClient) -> None:
    agent.run(CAT)
    gone = agent.last_stream
    agent.send(Kind.INPUT, gone, bytes(65536))
    agent.send(Kind.INPUT_END, gone)
    agent.send(Kind.CREDIT, gone, agent_codec.number(1), Channel.STDOUT)
    agent.send(Kind.SIGNAL, gone, agent_codec.number(9))
    agent.send(Kind.RESIZE, gone, agent_codec.resize(1, 1))
    assert agent.ask(Kind.PING).kind is Kind.PONG


def test_questions_that_nobody_waits_for_do_not_pile_up(agent: AgentClient) -> None:
    count = 50_000
    questions = agent_codec.encode_frame(Frame(Kind.PING, 5)) * count
    writer = threading.Thread(target=agent.connection.sendall, args=(questions,))
    writer.start()
    for _ in range(count):
        assert agent.next_frame(5).kind is Kind.PONG
    writer.join()


def test_a_program_cannot_hold_the_connection_by_taking_its_output_back(agent: AgentClient) -> None:
    thief = "for i in 1 2 3; do cat /proc/self/fd/1 >/dev/null & done; yes"
    stream = agent.start(GuestCommand(("sh", "-c", thief), PATH))
    agent.wait_for(stream, Kind.STARTED)
    for _ in range(50):
        agent.send(Kind.CREDIT, stream, agent_codec.number(WINDOW), Channel.STDOUT)
        assert agent.ask(Kind.PING).kind is Kind.PONG
    agent.send(Kind.SIGNAL, 0, agent_codec.number(9), Flag.EVERY)
    assert agent.finish(stream).exit_code == -9


PING = agent_codec.encode_frame(Frame(Kind.PING, 7))
HELLO = agent_codec.encode_frame(Frame(Kind.HELLO, 0, agent_codec.hello()))
START = agent_codec.encode_message(Kind.EXEC, 1, agent_codec.command(CAT))
BAD = {
    "not greeted": PING + HELLO,
    "another protocol": agent_codec.encode_frame(Frame(Kind.HELLO, 0, struct.pack("<II", 1, 1))),
    "a huge length": HELLO + START + struct.pack("<IHHI", 0xFFFFFFFF, Kind.INPUT, 0, 1),
    "an unknown kind": HELLO + START + struct.pack("<IHHI", 0, 99, 0, 1),
    "garbage": b"\xa5" * 4096,
    "a stream twice": HELLO + START + agent_codec.encode_frame(Frame(Kind.PUT, 1, b"")),
    "more input than granted": HELLO
    + START
    + agent_codec.encode_frame(Frame(Kind.INPUT, 1, bytes(65536))) * (8 * WINDOW // 65536),
    "a message without end": HELLO
    + agent_codec.encode_frame(Frame(Kind.EXEC, 1, bytes(65536), Flag.MORE)) * 130,
    "half a frame": HELLO + START + struct.pack("<IHHI", 100, Kind.EXEC, 0, 2),
    "the end": HELLO + START,
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_frame_ends_the_agent_and_all_that_it_runs(what: str) -> None:
    with private_agent(greet=False) as agent:
        try:
            agent.connection.sendall(BAD[what])
            if what in ("half a frame", "the end"):
                agent.connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        with pytest.raises((EOFError, ConnectionResetError)):
            while True:
                assert agent.next_frame(1).kind in (Kind.STARTED, Kind.INPUT_CREDIT, Kind.OUTPUT)
