"""Attacks on a network from inside a sandbox without rights: more probes, appended to `tests.network.probes`.

Each answers with what it could do, or raises. `token` is in whatever is sent: who watches knows it by that.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from tests.network.probes import Failed, Probe, ask_board

FAMILIES_OF_OURS = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
ROUTE, NETFILTER = 0, 12
ADD_LINK, ADD_ADDRESS, ADD_ROUTE, ADD_NEIGHBOUR, ADD_RULE, ADD_QDISC = 16, 20, 24, 28, 32, 36
REQUEST_ACK, CREATE = 0x5, 0x405
DELETE_CONNECTIONS, BATCH_BEGIN, BATCH_END, DELETE_TABLE = 0x102, 0x10, 0x11, 0xA02
LIBC = ctypes.CDLL(None, use_errno=True)
NEW_NET, NEW_USER = 0x40000000, 0x10000000
SYS_BPF, PTRACE_SEIZE = 321, 0x4206


# --- the kernel's doors to links, routes and rules ---------------------------------------------------


def message(kind: int, flags: int, body: bytes, number: int = 1) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, number, 0) + body


def asked(family: int, *messages: bytes) -> str:
    """The kernel has done what netlink was asked for; its error is raised."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as link:
        link.settimeout(5)
        link.send(b"".join(messages))
        answer = link.recv(65536)
    kind, error = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
    if kind == 2 and error:
        raise OSError(-error, os.strerror(-error))
    return "done"


def link_down(_: Probe) -> str:
    return asked(ROUTE, message(ADD_LINK, REQUEST_ACK, struct.pack("=BxHiII", 0, 0, 1, 0, 1)))


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def own_address(_: Probe) -> str:
    ours = socket.inet_aton("10.187.1.77")
    body = struct.pack("=BBBBi", 2, 32, 0, 0, 1) + attribute(2, ours) + attribute(1, ours)
    return asked(ROUTE, message(ADD_ADDRESS, CREATE, body))


def own_route(_: Probe) -> str:
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 4, 253, 1, 0)
    body += attribute(1, socket.inet_aton("192.0.2.66")) + attribute(4, struct.pack("=i", 1))
    return asked(ROUTE, message(ADD_ROUTE, CREATE, body))


def own_neighbour(_: Probe) -> str:
    body = struct.pack("=BxHiHBB", 2, 0, 1, 0x80, 0, 0) + attribute(1, socket.inet_aton("127.0.0.9"))
    return asked(ROUTE, message(ADD_NEIGHBOUR, CREATE, body + attribute(2, b"\2\0\0\0\0\1")))


def own_routing_rule(_: Probe) -> str:
    return asked(ROUTE, message(ADD_RULE, CREATE, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0)))


def own_queue(_: Probe) -> str:
    body = struct.pack("=BxxxiIII", 0, 1, 0x10000, 0xFFFFFFFF, 0) + attribute(1, b"pfifo\0")
    return asked(ROUTE, message(ADD_QDISC, CREATE, body))


def flush_rules(_: Probe) -> str:
    """As `nft delete table inet mxc`."""
    here = struct.pack("=BBH", 1, 0, 0)
    batch = struct.pack("=BB", 0, 0) + struct.pack("!H", 10)
    delete = message(DELETE_TABLE, REQUEST_ACK, here + attribute(1, b"mxc\0"), 2)
    return asked(NETFILTER, message(BATCH_BEGIN, 1, batch), delete, message(BATCH_END, 1, batch, 3))


def forget_connections(_: Probe) -> str:
    """As `conntrack -F`: what is not known is judged anew, and what was redirected goes where it was sent."""
    return asked(NETFILTER, message(DELETE_CONNECTIONS, REQUEST_ACK, struct.pack("=BBH", 2, 0, 0)))


def link_ioctls(_: Probe) -> str:
    """An address by SIOCSIFADDR."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        address = struct.pack("=HH4s8x", 2, 0, socket.inet_aton("127.0.0.2"))
        fcntl.ioctl(sock, 0x8916, struct.pack("16s16s", b"lo:1", address))
    return "done"


def settings(_: Probe) -> str:
    """Any switch of the network below /proc/sys."""
    found = [path for path in Path("/proc/sys/net").rglob("*") if path.is_file() and could_write(path)]
    if not found:
        raise PermissionError("none of them can be written")
    return f"{len(found)}: {found[:3]}"


def could_write(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        return False
    return True


def option(level: int, name: int, value: int = 1, family: int = socket.AF_INET) -> Callable[[Probe], str]:
    def attack(_: Probe) -> str:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(level, name, value)
        return "set"

    return attack


mark = option(socket.SOL_SOCKET, 36, 0x10000)
transparent = option(socket.IPPROTO_IP, 19)
transparent6 = option(socket.IPPROTO_IPV6, 75, family=socket.AF_INET6)
big_buffers = option(socket.SOL_SOCKET, 33, 1 << 30)


# --- kinds of sockets --------------------------------------------------------------------------------


def raw(probe: Probe) -> str:
    socket.socket(probe.get("family", socket.AF_INET), socket.SOCK_RAW, probe["protocol"]).close()
    return "made"


def packets(_: Probe) -> str:
    socket.socket(17, socket.SOCK_RAW, socket.htons(3)).close()
    return "made"


def families(_: Probe) -> str:
    """Sockets of other families: VSOCK, PACKET, XDP, ALG, BLUETOOTH, …"""
    found = [family for family in range(1, 46) if family not in FAMILIES_OF_OURS and can_make(family)]
    if not found:
        raise OSError(errno.EAFNOSUPPORT, "none of them can be made")
    return f"families {found}"


def can_make(family: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            socket.socket(family, kind, 0).close()
        except OSError:
            continue
        return True
    return False


def netlinks(_: Probe) -> str:
    """Those besides that for routes: netfilter, xfrm, audit, generic, …"""
    found: list[int] = []
    for family in range(1, 23):
        try:
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family).close()
            found.append(family)
        except OSError:
            continue
    if not found:
        raise OSError(errno.EAFNOSUPPORT, "none of them can be made")
    return f"netlink {found}"


def transports(probe: Probe) -> str:
    """SCTP, DCCP, UDP-Lite: what they send is no TCP, and rules for ports are not for them."""
    found: list[int] = []
    for kind, protocol in ((1, 132), (5, 132), (2, 136), (6, 33)):
        try:
            with socket.socket(socket.AF_INET, kind, protocol) as sock:
                sock.settimeout(1)
                sock.connect((probe["to"], probe["port"]))
                sock.send(probe["token"].encode())
            found.append(protocol)
        except OSError:
            continue
    if not found:
        raise OSError(errno.EPROTONOSUPPORT, "none of them can be used")
    return f"sent {found}"


# --- other namespaces, other processes ---------------------------------------------------------------


def in_child(attack: Callable[[], None]) -> str:
    """What must not happen to us, or only without threads, happens in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            attack()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        except BaseException:
            os._exit(255)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))
    return "done"


def called(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def own_network(_: Probe) -> str:
    return in_child(lambda: called(LIBC.unshare(NEW_NET)))


def own_users(_: Probe) -> str:
    return in_child(lambda: called(LIBC.unshare(NEW_USER)))


def enter_network(_: Probe) -> str:
    """Of whatever process is to be seen."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            fd = os.open(entry / "ns" / "net", os.O_RDONLY)
        except OSError:
            continue
        try:
            in_child(lambda fd=fd: called(LIBC.setns(fd, 0)))
            found.append(entry.name)
        except OSError:
            continue
        finally:
            os.close(fd)
    if not found:
        raise PermissionError("none of them can be entered")
    return f"entered {found}"


def strangers(_: Probe) -> str:
    """Processes that are not the sandbox's: its gate, its helper, its proxy, who started it."""
    words = {entry.name: command_line(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found = {pid: said for pid, said in words.items() if any(word in said for word in STRANGERS)}
    if not found:
        raise ProcessLookupError("none of them is to be seen")
    return json.dumps(found)


STRANGERS = ("pasta", "slirp", "launcher", " gate ", "mxc_ops", "backends", "bwrap", "qemu")


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:60]
    except OSError:
        return ""


def reach(probe: Probe) -> str:
    """By the number that it has on the host: who started us, with the same uid perhaps."""
    called(LIBC.kill(probe["pid"], 0))
    return "reached"


def trace(probe: Probe) -> str:
    return in_child(lambda: called(LIBC.ptrace(PTRACE_SEIZE, probe["pid"], 0, 0)))


def descriptors(_: Probe) -> str:
    """What a workload has open that it did not open: sockets and namespaces above all."""
    links = {entry.name: target(entry) for entry in Path("/proc/self/fd").iterdir()}
    ours = f"/proc/{os.getpid()}/fd"  # which is open to look
    found = {fd: link for fd, link in links.items() if int(fd) > 2 and link and link != ours}
    if not found:
        raise Failed("nothing")
    return json.dumps(found)


def others_descriptors(_: Probe) -> str:
    """What is to be seen of those of the sandbox's other processes, its first one above all."""
    found: dict[str, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                found |= {f"{entry.name}/{fd.name}": target(fd) for fd in (entry / "fd").iterdir()}
            except OSError:
                continue
    if not found:
        raise PermissionError("none of them is to be seen")
    return json.dumps(found)


def target(link: Path) -> str:
    """Empty: it has been closed meanwhile."""
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


def device(_: Probe) -> str:
    """A link of our own to packets."""
    with Path("/dev/net/tun").open("r+b", buffering=0) as tun:
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"own0", 2))
    return "made"


def program(_: Probe) -> str:
    """BPF_MAP_CREATE of an array, the least that there is to have of it."""
    called(LIBC.syscall(SYS_BPF, 0, struct.pack("=IIIII108x", 2, 4, 4, 1, 0), 72))
    return "made"


def abstract(probe: Probe) -> str:
    """A UNIX socket without a path, which is of a network namespace."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + probe["name"])
        return sock.recv(100).decode()


def serve_abstract(probe: Probe) -> str:
    """Listen without a path, and reach ourselves, until told on the board to end."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0" + probe["name"])
        listening.listen()
        ask_board(probe, f"/say/{probe['key']}/up")
        ask_board(probe, f"/wait/{probe['key']}-end")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("\0" + probe["name"])
        return "itself: connected"
