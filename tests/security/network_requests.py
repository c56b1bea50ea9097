"""What a sandbox says to its filtering proxy, and how much of it: appended to `tests.network.web_probes`."""

from __future__ import annotations

import os
import resource
import socket
import struct
import threading
import time
from contextlib import suppress

from tests.network.probes import Failed, Probe
from tests.network.web_probes import proxy, url

READ_S = 0.7


def says(probe: Probe) -> str:
    """`text` to the proxy, or to `to` and `port`; what is answered until nothing comes any more."""
    where = (probe["to"], probe["port"]) if "to" in probe else proxy()
    with socket.create_connection(where, probe["wait"]) as sock:
        with suppress(ConnectionError):  # it may be told off before it has said everything
            for part in probe["text"].split("\x1e"):
                sock.sendall(part.encode("latin-1"))
                time.sleep(0.05 if "\x1e" in probe["text"] else 0)
        return heard(sock, probe.get("patience", READ_S))


def heard(sock: socket.socket, patience_s: float = READ_S) -> str:
    """What comes within `patience_s`, and after it until nothing comes any more."""
    answer = b""
    sock.settimeout(patience_s)
    with suppress(OSError):
        while data := sock.recv(65536):
            answer += data
            sock.settimeout(READ_S)
    statuses = [
        line.decode("latin-1") for line in answer.split(b"\r\n") if line.startswith((b"HTTP/", b"X-Mxc"))
    ]
    return " ".join(statuses) or repr(answer[:60])


def asks_by_socks(probe: Probe) -> str:
    """Whatever `request` is, in hexadecimal, after the greeting; the answer's code."""
    with socket.create_connection(proxy(), probe["wait"]) as sock:
        sock.sendall(b"\5\1\0")
        sock.recv(2)
        sock.sendall(bytes.fromhex(probe["request"]))
        answer = sock.recv(10)
        if len(answer) > 1 and answer[1] == 0:
            return "granted"
        raise Failed(answer.hex())


def asks_dns(probe: Probe) -> str:
    """For labels as they are, in hexadecimal, with any type; the code and the number of answers."""
    labels = b"".join(bytes([len(one)]) + one for one in map(bytes.fromhex, probe["labels"]))
    query = (
        struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", probe["type"], 1)
    )
    with socket.socket(socket.AF_INET6 if ":" in probe["to"] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(probe["wait"])
        sock.connect((probe["to"], probe.get("port", 53)))
        sock.send(query)
        answer = sock.recv(65536)
    count = struct.unpack("!H", answer[6:8])[0]
    if not count:
        raise Failed(f"code {answer[3] & 15}")
    return f"{count} answers"


def floods(probe: Probe) -> str:
    """`count` connections at once that say `text`, or nothing; then, without them, one that asks."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    child = os.fork()  # with a limit of its own, which in a small machine is 4096
    if not child:
        try:
            hold_open(probe)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    return f"{probe['count']} connections; then {until_served(probe)}"


def hold_open(probe: Probe) -> None:
    held: list[socket.socket] = []
    for _ in range(probe["count"]):
        sock = socket.socket()
        held.append(sock)
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect(proxy())
    for sock in held:
        with suppress(OSError):
            sock.send(probe["text"].encode())
    time.sleep(probe["hold"])


def dribbles(probe: Probe) -> str:
    """`count` connections that say one letter after the other, and never all; meanwhile one asks."""
    held = [socket.create_connection(proxy(), probe["wait"]) for _ in range(probe["count"])]
    served = threading.Event()

    def drip() -> None:
        while not served.is_set():
            for sock in held:
                with suppress(OSError):
                    sock.send(b"G")
            time.sleep(0.5)

    threading.Thread(target=drip, daemon=True).start()
    try:
        return until_served(probe)
    finally:
        served.set()


def until_served(probe: Probe) -> str:
    """Anybody may be turned away for a while; for how long is not for us to say."""
    deadline = time.monotonic() + probe["wait"]
    while True:
        try:
            url({**probe, "wait": 2})
            return "served"
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def many(probe: Probe) -> str:
    """`count` requests, one after the other by one connection, all of them allowed."""
    with socket.create_connection(proxy(), probe["wait"]) as sock:
        answers = sock.makefile("rb")
        for _ in range(probe["count"]):
            sock.sendall(probe["text"].encode())
            size = 0
            while (line := answers.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
            answers.read(size)
    return "answered"
