"""More probes, appended to `probes` where they are needed: by names, through proxies, with TLS."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import socket
import ssl
import struct
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from tests.network.probes import Failed, Probe

BIG_S = 30


def lookup(probe: Probe) -> str:
    """As every program does it."""
    found = {str(entry[4][0]) for entry in socket.getaddrinfo(probe["name"], None)}
    return " ".join(sorted(found))


def url(probe: Probe) -> str:
    """As a program that knows the proxy's variables does it, or one that does not (`direct`)."""
    handlers: list[urllib.request.BaseHandler] = []
    if probe.get("direct"):
        handlers.append(urllib.request.ProxyHandler({}))
    handlers.append(urllib.request.HTTPSHandler(context=trusting(probe)))
    request = urllib.request.Request(
        probe["url"], method=probe.get("method", "GET"), headers=probe.get("headers", {})
    )
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=probe["wait"]) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        raise Failed(f"{error.code} {error.headers['X-Mxc-Denied']}") from None


def tunnel(probe: Probe) -> str:
    """A tunnel to `name` and `port` through the proxy: ``connect`` or ``socks``; then what `speak` says."""
    host, port = proxy()
    sock = socket.create_connection((host, port), probe["wait"])
    name = probe["name"].encode()
    if probe["by"] == "connect":
        sock.sendall(b"CONNECT %s:%d HTTP/1.1\r\nHost: x\r\n\r\n" % (name, probe["port"]))
        head = read_head(sock)
        if b" 200 " not in head.split(b"\r\n")[0]:
            reason = [line for line in head.split(b"\r\n") if line.lower().startswith(b"x-mxc-denied")]
            raise Failed(head.split(b" ")[1].decode() + " " + b"".join(reason).decode())
    else:
        sock.sendall(b"\5\1\0")
        if sock.recv(2) != b"\5\0":
            raise Failed("no method")
        if probe.get("literal"):
            where = b"\1" + socket.inet_aton(probe["name"])
        else:
            where = b"\3" + bytes([len(name)]) + name
        sock.sendall(b"\5\1\0" + where + struct.pack("!H", probe["port"]))
        answer = sock.recv(10, socket.MSG_WAITALL)
        if answer[1]:
            raise Failed(f"socks {answer[1]}")
    return speak(sock, probe)


def straight(probe: Probe) -> str:
    """To the address that the name has, or `to`, on `port`; then what `speak` says."""
    to: str = probe.get("to") or str(socket.getaddrinfo(probe["name"], None)[0][4][0])
    return speak(socket.create_connection((to, probe["port"]), probe["wait"]), probe)


def speak(sock: socket.socket, probe: Probe) -> str:
    """``greeting``, ``http`` (with `host`) or ``tls`` (with `sni`, None for none) and then HTTP."""
    with sock:
        if probe["speak"] == "greeting":
            sock.settimeout(probe["wait"])
            line = sock.makefile("rb").readline()
            if not line:
                raise Failed("closed")
            return line.decode().strip()
        host = probe.get("host", probe["name"])
        if probe["speak"] == "tls":
            context = trusting(probe)
            context.check_hostname = False
            sock = context.wrap_socket(sock, server_hostname=probe.get("sni", probe["name"]))
            told = json.loads(exchange(sock, host))
            if told["sni"] != probe.get("sni", probe["name"]):
                raise Failed(f"sni {told['sni']}")
            return json.dumps(told)
        return exchange(sock, host)


def exchange(sock: socket.socket, host: str) -> str:
    sock.sendall(b"GET /x HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
    answer = http.client.HTTPResponse(sock)
    answer.begin()
    body = answer.read().decode()
    if answer.status != 200:
        raise Failed(f"{answer.status} {answer.headers['X-Mxc-Denied']}")
    return body


def several(probe: Probe) -> str:
    """Requests of one connection to the proxy, each for a URL: all must be answered by whom it names."""
    sock = http.client.HTTPConnection(*proxy(), timeout=probe["wait"])
    said: list[Any] = []
    for target in probe["urls"]:
        sock.request("GET", target)
        answer = sock.getresponse()
        body = answer.read()
        said.append(json.loads(body) if answer.status == 200 else answer.status)
    return json.dumps(said)


def content(probe: Probe) -> str:
    """`size` bytes there (by POST) or from there (``/big/``), by their digest."""
    whole = random.Random(probe["size"]).randbytes(probe["size"])
    up = probe["way"] == "up"
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusting(probe)))
    target = probe["url"] + ("" if up else f"/big/{probe['size']}")
    with opener.open(urllib.request.Request(target, data=whole if up else None), timeout=BIG_S) as answer:
        got = answer.read()
    digest = json.loads(got)["digest"] if up else hashlib.sha256(got).hexdigest()
    if digest != hashlib.sha256(whole).hexdigest():
        raise Failed("other bytes")
    return f"{len(whole)} bytes"


def variables(probe: Probe) -> str:
    """Whatever of the environment is about proxies."""
    found = {name: value for name, value in os.environ.items() if "PROXY" in name.upper()}
    return json.dumps(found, sort_keys=True)


def trusting(probe: Probe) -> ssl.SSLContext:
    return (
        ssl.create_default_context(cadata=probe["trusts"])
        if "trusts" in probe
        else ssl.create_default_context()
    )


def proxy() -> tuple[str, int]:
    found = urllib.parse.urlsplit(os.environ["http_proxy"])
    return found.hostname or "", found.port or 0


def read_head(sock: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(1)
        if not data:
            raise Failed("closed")
        head += data
    return head
