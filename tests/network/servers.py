"""Small servers for every address of a network namespace: TCP and UDP echo, HTTP, TLS, DNS, a CONNECT proxy.

Run by the bed, and asked by it (`tests.network.link`): what was seen, for a name, to connect somewhere.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import Any, cast

from tests.network.dns_zone import Zone
from tests.network.http_server import Board, serve_http

TCP_PORTS = (22, 25, 7999, 8000, 8001, 8005, 8009, 8010, 8011, 8080, 9999, 65535)
UDP_PORTS = (123, 7999, 8000, 8001, 8005, 8009, 8010, 8011, 9999)
PROXY_PORT = 3128
_DIAL_S = 3.0
_IPV6_RECVPKTINFO, _IPV6_PKTINFO, _IPV6_FREEBIND = 49, 50, 78
_IP_PKTINFO = 8

Serve = Callable[[StreamReader, StreamWriter], Awaitable[None]]
Datagram = Callable[[bytes], bytes]


class Servers:
    """`seen` is what has come in: protocol, address, port."""

    def __init__(self) -> None:
        self.zone = Zone()
        self.board = Board()
        self.seen: list[tuple[str, str, int]] = []

    async def open(self, role: str, certificate: str) -> None:
        for port in TCP_PORTS:
            await self._listen(self._greet, port)
        await self._listen(self._http, 80)
        for port in UDP_PORTS:
            self._listen_udp(port, lambda data: b"udp " + data)
        if role == "beyond":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            context.sni_callback = _remember_name
            for port in (443, 8443):
                await self._listen(self._http, port, ssl=context)
            self._listen_udp(53, self.zone.answer)
            await self._listen(self._dns, 53)
        else:
            for address in ("127.0.0.1", "::1"):
                await asyncio.start_server(self._kept(_connect_proxy), address, PROXY_PORT)

    async def _listen(self, serve: Serve, port: int, **options: Any) -> None:
        await asyncio.start_server(self._kept(serve), None, port, backlog=1024, **options)

    def _kept(self, serve: Serve) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
        async def one(reader: StreamReader, writer: StreamWriter) -> None:
            self.seen.append(("tcp", *writer.get_extra_info("sockname")[:2]))
            try:
                await serve(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        return one

    async def _greet(self, reader: StreamReader, writer: StreamWriter) -> None:
        name = writer.get_extra_info("sockname")
        writer.write(f"tcp {name[0]} {name[1]}\n".encode())
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def _http(self, reader: StreamReader, writer: StreamWriter) -> None:
        await serve_http(self.board, reader, writer)

    async def _dns(self, reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            size = struct.unpack("!H", await reader.readexactly(2))[0]
            reply = self.zone.answer(await reader.readexactly(size))
            writer.write(struct.pack("!H", len(reply)) + reply)

    def _listen_udp(self, port: int, answer: Datagram) -> None:
        """At every address; what is answered comes from the one that was asked."""
        for family in (socket.AF_INET, socket.AF_INET6):
            listening = socket.socket(family, socket.SOCK_DGRAM)
            listening.setblocking(False)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
                listening.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            else:
                listening.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            listening.bind(("", port))
            asyncio.get_running_loop().add_reader(listening, self._take_datagram, listening, port, answer)

    def _take_datagram(self, listening: socket.socket, port: int, answer: Datagram) -> None:
        data, ancillary, _, sender = listening.recvmsg(65536, 256)
        [(level, _, info)] = ancillary
        if listening.family == socket.AF_INET6:
            address, kind = socket.inet_ntop(socket.AF_INET6, info[:16]), _IPV6_PKTINFO
            source = info[:16] + bytes(4)
        else:
            address, kind = socket.inet_ntop(socket.AF_INET, info[8:12]), _IP_PKTINFO
            source = bytes(4) + info[8:12] + bytes(4)
        self.seen.append(("udp", address, port))
        listening.sendmsg([answer(data)], [(level, kind, source)], 0, sender)

    # --- what the bed asks ---------------------------------------------------------------------------

    async def do(self, op: str, asked: dict[str, Any]) -> Any:
        if op == "seen":
            found, self.seen = self.seen, []
            return found
        if op == "asked":
            names, self.zone.asked = self.zone.asked, []
            return names
        if op == "zone":
            return self.zone.put(asked["name"], asked["turns"])
        if op == "tell":
            return self.board.leave(asked["key"], asked["value"])
        if op == "heard":
            return await self.board.take(asked["key"])
        return await _dial(asked["protocol"], asked["address"], asked["port"], asked["send"])


async def _dial(protocol: str, address: str, port: int, send: str) -> str | None:
    """What came back; None: nothing."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_DIAL_S):
            if protocol == "tcp":
                reader, writer = await asyncio.open_connection(address, port)
                writer.write(send.encode())
                got = await reader.read(1 << 16)
                writer.close()
                return got.decode() or None
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
                asking.connect((address, port))
                await loop.sock_sendall(asking, send.encode())
                return (await loop.sock_recv(asking, 1 << 16)).decode()
    except (OSError, TimeoutError):
        return None


async def _connect_proxy(reader: StreamReader, writer: StreamWriter) -> None:
    """One request: CONNECT to an address or a name, or an absolute one of plain HTTP, of which it tells."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    method, target, _ = head.split(" ", 2)
    if method != "CONNECT":
        told = json.dumps({"proxy": "the caller's", "method": method, "target": target}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told)
        )
        return
    host, _, port = target.rpartition(":")
    theirs, to = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await asyncio.gather(_pump(reader, to), _pump(theirs, writer))


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _remember_name(tls: Any, name: str | None, _context: ssl.SSLContext) -> None:
    tls.asked_for = name


async def main(role: str, certificate: str) -> None:
    servers = Servers()
    await servers.open(role, certificate)
    questions = StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(questions), sys.stdin
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    tasks: set[asyncio.Task[None]] = set()
    async for line in questions:
        task = asyncio.create_task(_answer(servers, cast("dict[str, Any]", json.loads(line))))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _answer(servers: Servers, asked: dict[str, Any]) -> None:
    value = await servers.do(asked.pop("op"), asked)
    sys.stdout.write(json.dumps({"id": asked["id"], "value": value}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
