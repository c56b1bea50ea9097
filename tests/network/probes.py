"""What runs in a sandbox: reads probes as JSON from its input, tries them all at once, tells what came of it.

One line of JSON per probe: ``probe`` is its number, ``reached`` whether the other side answered, ``said``
what came of it. Only the standard library is there, and what takes long to import is in `web_probes`.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

Probe = dict[str, Any]
FAMILIES = {True: socket.AF_INET6, False: socket.AF_INET}
ECHO = {True: (58, 128, 129), False: (1, 8, 0)}
SILENT = (53, 80, 443, 3128)


class Failed(Exception):
    """Somebody answered, and refused."""


def tcp(probe: Probe) -> str:
    """Who greets, says at which address it was reached; not everybody does."""
    with connected(probe) as sock:
        if probe["port"] in SILENT:
            return "connected"
        reader = sock.makefile("rb")
        greeting = reader.readline()
        sock.sendall(b"there and back\n")
        if reader.readline() != b"there and back\n":
            raise Failed("no echo")
        return greeting.decode().strip()


def udp(probe: Probe) -> str:
    """`count` datagrams of `size` bytes, each answered before the next one."""
    answer = b""
    with asking(probe, socket.SOCK_DGRAM) as sock:
        sock.connect((probe["to"], probe["port"]))
        for _ in range(probe.get("count", 1)):
            sock.send(b"x" * probe.get("size", 1))
            answer = sock.recv(65536)
        return answer[:40].decode()


def icmp(probe: Probe) -> str:
    protocol, request, reply = ECHO[":" in probe["to"]]
    answer = b""
    with asking(probe, socket.SOCK_DGRAM, protocol) as sock:
        sock.connect((probe["to"], 0))
        for number in range(probe.get("count", 1)):
            sock.send(struct.pack("!BBHHH", request, 0, 0, 0, number) + b"there")
            answer = sock.recv(65536)
            if answer[0] != reply:
                raise Failed(f"type {answer[0]}")
        return f"type {answer[0]}"


def own(probe: Probe) -> str:
    """The sandbox's talk with itself."""
    listening = socket.create_server((probe["to"], 0), family=FAMILIES[":" in probe["to"]])
    with listening, socket.create_connection(listening.getsockname()[:2], probe["wait"]) as sock:
        accepted, _ = listening.accept()
        with accepted:
            accepted.sendall(b"itself")
            return sock.recv(10).decode()


def dns(probe: Probe) -> str:
    """One query for `name` sent to a server, by UDP or TCP."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in probe["name"].split("."))
    query = (
        struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0)
        + labels
        + struct.pack("!BHH", 0, probe.get("type", 1), 1)
    )
    if probe.get("over") == "tcp":
        with connected(probe) as sock:
            sock.sendall(struct.pack("!H", len(query)) + query)
            answer = sock.makefile("rb").read(struct.unpack("!H", sock.recv(2, socket.MSG_WAITALL))[0])
    else:
        with asking(probe, socket.SOCK_DGRAM) as sock:
            sock.connect((probe["to"], probe["port"]))
            sock.send(query)
            answer = sock.recv(65536)
    code, count = answer[3] & 15, struct.unpack("!H", answer[6:8])[0]
    if code or not count:
        raise Failed(f"code {code}, {count} answers")
    return f"{count} answers"


def serve(probe: Probe) -> str:
    """Listen and echo, until ``end`` comes, or until the board tells so, where there is one; what came."""
    kind = socket.SOCK_DGRAM if probe["protocol"] == "udp" else socket.SOCK_STREAM
    with socket.socket(FAMILIES[":" in probe["to"]], kind) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((probe["to"], probe["port"]))
        if kind == socket.SOCK_STREAM:
            listening.listen()
        got: list[str] = []
        ended = threading.Event()
        threading.Thread(target=echo, args=(listening, kind, got, ended), daemon=True).start()
        if "board" in probe:
            ask_board(probe, f"/say/{probe['key']}/up")
            ask_board(probe, f"/wait/{probe['key']}-end")
        else:
            ended.wait()
        return json.dumps(got)


def echo(listening: socket.socket, kind: int, got: list[str], ended: threading.Event) -> None:
    while not ended.is_set():
        if kind == socket.SOCK_DGRAM:
            data, sender = listening.recvfrom(65536)
            got.append(data.decode())
            listening.sendto(b"sandbox " + data, sender)
        else:
            sock, _ = listening.accept()
            data = sock.recv(65536)
            got.append(data.decode())
            sock.sendall(b"sandbox " + data)
            sock.close()
        if data == b"end":
            ended.set()


def ask_board(probe: Probe, target: str) -> None:
    with socket.create_connection((probe["board"], 80)) as sock:
        sock.sendall(f"GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        while sock.recv(65536):
            pass


def stream(probe: Probe) -> str:
    """One connection that is used again and again until there is a file `until`; by HTTP with a `url`."""
    with socket.create_connection((probe["to"], probe["port"]), probe["wait"]) as sock:
        message = b"again\n"
        if "url" in probe:
            message = f"GET {probe['url']} HTTP/1.1\r\nHost: {probe['host']}\r\n\r\n".encode()
        rounds = 0
        while True:
            sock.sendall(message)
            got = sock.recv(65536)
            if not got or b"HTTP/1.1 4" in got:
                raise Failed(f"{got[:40]!r}")
            rounds += 1
            if Path(probe["until"]).exists():
                return f"{rounds} rounds"
            time.sleep(0.02)


def forged(probe: Probe) -> str:
    """A datagram from `source`, to which any program may bind a socket, whosever it is (ip(7))."""
    level, freebind = (socket.IPPROTO_IPV6, 78) if ":" in probe["to"] else (socket.IPPROTO_IP, 15)
    with asking(probe, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(level, freebind, 1)
        sock.bind((probe["source"], 0))
        sock.sendto(b"forged", (probe["to"], probe["port"]))
        return "sent"


def asking(probe: Probe, kind: int, protocol: int = 0) -> socket.socket:
    sock = socket.socket(FAMILIES[":" in probe["to"]], kind, protocol)
    sock.settimeout(probe["wait"])
    return sock


def connected(probe: Probe) -> socket.socket:
    return socket.create_connection((probe["to"], probe["port"]), probe["wait"])


def attempt(number: int, probe: Probe) -> None:
    time.sleep(probe.get("after", 0))
    try:
        reached, said = True, globals()[probe["kind"]](probe)
    except Exception as error:
        reached, said = False, f"{type(error).__name__}: {error}"
    with PRINTING:
        print(json.dumps({"probe": number, "reached": reached, "said": said}), flush=True)


PRINTING = threading.Lock()


def main() -> None:
    probes = json.loads(sys.stdin.readline())
    trying = [threading.Thread(target=attempt, args=entry) for entry in enumerate(probes)]
    for thread in trying:
        thread.start()
    for thread in trying:
        thread.join()
