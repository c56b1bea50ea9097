"""Networks: ``python -m tests.bench.bench_network [PART]``. As root, with the image ``base``.

In network namespaces of its own (`tests.network.bed`). Every figure is a median over `ROUNDS` in one run;
what is promised as a ratio is shown as one, of two things that are measured in turns.
"""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import mxc_ops
from mxc_ops import Policy, network
from tests.bench.measure import in_turns, once_ms
from tests.conftest import UNPRIVILEGED_UID
from tests.network.bed import Bed, network_bed

ROUNDS = int(os.environ.get("MXC_BENCH_NETWORK_ROUNDS", "15"))
SENT_MIB = 1024
SINK_PORT = 9009
RULE = network(allow=["192.0.2.7:8000"])
TRUE = ("/bin/true",)
_CHECKOUT = Path(__file__).parents[2]

_SINK = f"""
import socket
listening = socket.create_server(("", {SINK_PORT}), backlog=64)
room = memoryview(bytearray(1 << 20))
print("ready", flush=True)
while True:
    connection, _ = listening.accept()
    while connection.recv_into(room):
        pass
    connection.close()
"""
_SEND = f"""
import socket, sys, time
host, port, through = sys.argv[1], {SINK_PORT}, sys.argv[2:]
connection = socket.create_connection((through[0], int(through[1])) if through else (host, port), 10)
if through:
    connection.sendall(b"CONNECT %s:%d HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % (host.encode(), port))
    answer = connection.recv(4096)
    assert b" 200 " in answer, answer
block, begun = bytes(1 << 20), time.monotonic()
for _ in range({SENT_MIB}):
    connection.sendall(block)
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
print({SENT_MIB} / (time.monotonic() - begun))
"""


def main() -> None:
    if os.environ.get("MXC_BENCH_IN_BED"):
        PARTS[sys.argv[1]]()
        return
    for part in ("mxc_ops", "vm_images", "backends"):
        compileall.compile_dir(_CHECKOUT / part, quiet=2)
    with network_bed() as bed, _sink(bed), _plain_veth(bed) as plain:
        for part in sys.argv[1:] or PARTS:
            again = [sys.executable, "-m", "tests.bench.bench_network", part]
            environment = {**os.environ, "MXC_BENCH_IN_BED": plain}
            whole = ["ip", "netns", "exec", bed.host, *again]
            subprocess.run(whole, check=True, cwd=_CHECKOUT, env=environment)


@contextmanager
def _sink(bed: Bed) -> Generator[None]:
    argv = ["ip", "netns", "exec", bed.beyond, sys.executable, "-c", _SINK]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as sink:
        assert sink.stdout is not None and sink.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            sink.kill()


@contextmanager
def _plain_veth(bed: Bed) -> Generator[str]:
    """What a sandbox's path is held against: the same hops without rules, bridge or gate; its process."""
    argv = ["ip", "netns", "exec", bed.host, "unshare", "--net", "sleep", "infinity"]
    with subprocess.Popen(argv) as plain:
        time.sleep(0.5)  # until it is in its namespace
        bed.run(
            ["ip", "link", "add", "plain0", "type", "veth", "peer", "name", "plain1", "netns", str(plain.pid)]
        )
        bed.run(["ip", "address", "add", "10.99.0.1/24", "dev", "plain0"])
        bed.run(["ip", "link", "set", "plain0", "up"])
        for words in (
            "address add 10.99.0.2/24 dev plain1",
            "link set plain1 up",
            "route add default via 10.99.0.1",
        ):
            bed.run(["nsenter", "-n", "-t", str(plain.pid), "ip", *words.split()])
        try:
            yield str(plain.pid)
        finally:
            plain.kill()


def _root() -> None:
    _added("root", "60 ms")


def _user() -> None:
    folder = tempfile.mkdtemp()
    os.chown(folder, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    os.setgroups([])
    os.setresgid(*(UNPRIVILEGED_UID,) * 3)
    os.setresuid(*(UNPRIVILEGED_UID,) * 3)
    os.environ["HOME"] = folder
    _added("a user", "120 ms")


def _added(who: str, promise: str) -> None:
    kinds = {"none": Policy(), "rules": Policy(network=RULE)}
    kinds["names"] = Policy(network=network(allow=["example.test:443"]))
    times = in_turns(
        {name: (lambda policy=policy: mxc_ops.run(policy, TRUE)) for name, policy in kinds.items()}, ROUNDS
    )
    without = median(times["none"])
    _line(f"bubblewrap of {who}: one-shot true", times["none"])
    added = median(times["rules"]) - without
    _line(f"bubblewrap of {who}: with rules", times["rules"], f"+ {added:.1f} ms, promised: + {promise}")
    added = median(times["names"]) - without
    _line(f"bubblewrap of {who}: with names", times["names"], f"+ {added:.1f} ms")


def _sizes() -> None:
    few = Policy(network=network(allow=[*_cidrs(10), *_names(10)]))
    many = Policy(network=network(allow=[*_cidrs(10_000), *_names(1000)]))
    with tempfile.TemporaryDirectory() as folder:
        documents = {"few": Path(folder, "few.json"), "many": Path(folder, "many.json")}
        for policy, path in zip((few, many), documents.values(), strict=True):
            path.write_text(json.dumps(policy.as_config(TRUE)))

        def command(size: str) -> Callable[[], object]:
            argv = [Path(sys.executable).parent / "mxc-ops", "run", documents[size]]
            return lambda: subprocess.run(argv, check=True)

        _compared("command line", {size: command(size) for size in documents})
    _compared("API", {"few": lambda: mxc_ops.run(few, TRUE), "many": lambda: mxc_ops.run(many, TRUE)})


def _compared(how: str, calls: dict[str, Callable[[], object]]) -> None:
    times = in_turns(calls, ROUNDS)
    ratio = median(times["many"]) / median(times["few"])
    _line(f"{how}: 10 names and 10 CIDRs", times["few"])
    _line(f"{how}: 1,000 names and 10,000 CIDRs", times["many"], f"{ratio:.2f} x, promised: 1.5 x")


def _cidrs(count: int) -> list[str]:
    """No two beside each other: nothing can be put together."""
    return [f"10.{number >> 7 & 255}.{(number << 1) & 255}.0/24" for number in range(count)]


def _names(count: int) -> list[str]:
    return [f"host-{number}.example.test:443" for number in range(count)]


def _throughput() -> None:
    argv = ["nsenter", "-n", "-t", os.environ["MXC_BENCH_IN_BED"], sys.executable, "-c", _SEND, "192.0.2.7"]
    policy = Policy(network=network(allow=[f"192.0.2.7:{SINK_PORT}"]))
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(5):
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        theirs.append(float(done.stdout))
        ours.append(float(mxc_ops.run(policy, ["/usr/bin/python3", "-c", _SEND, "192.0.2.7"]).check().stdout))
    ratio = 100 * median(ours) / median(theirs)
    print(f"plain veth: {median(theirs):.0f} MiB/s")
    print(f"a sandbox of root's: {median(ours):.0f} MiB/s   {ratio:.0f} %, promised: 80 %")


def _proxy() -> None:
    hosts = Path(tempfile.mkdtemp(), "hosts")
    hosts.write_text("127.0.0.1 localhost\n192.0.2.7 sink.test\n")
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)  # in a mount namespace of our own
    names: list[Any] = [
        {"name": "sink.test", "ports": [SINK_PORT], "inspect": "none", "addresses": ["192.0.2.0/24"]}
    ]
    document = {
        "version": "1.1.0-alpha",
        "containment": "bubblewrap",
        "process": {"commandLine": "true"},
        "mxcOps": {"network": {"names": names}},
    }
    policy = Policy.from_config(document)
    argv = ["/usr/bin/python3", "-c", _SEND, "sink.test", "127.0.0.1", "61080"]
    rates: list[float] = []
    shares: list[float] = []
    for _ in range(5):
        before = os.times()
        rate = float(mxc_ops.run(policy, argv).check().stdout)
        after = os.times()
        # Of the children of ours that were waited for, the proxy is one; the sandbox's are not among them.
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        rates.append(rate)
        shares.append(SENT_MIB / spent)
    print(f"through the proxy: {median(rates):.0f} MiB/s")
    print(f"through the proxy, per core: {median(shares):.0f} MiB/s   promised: 300 MiB/s")


def _machine() -> None:
    policy = Policy(containment="vm", network=RULE)
    mxc_ops.run(policy, "echo")  # makes the template

    def first_byte() -> float:
        timings = dict(mxc_ops.run(policy, "echo").check().timings)
        return timings["firstByte"]

    _line("VM with rules: first byte", [first_byte() for _ in range(ROUNDS)], "promised: 300 ms")
    none = Policy(containment="vm")
    _line(
        "VM without a network: one-shot", [once_ms(lambda: mxc_ops.run(none, "echo")) for _ in range(ROUNDS)]
    )


def _line(what: str, times: list[float], note: str = "") -> None:
    print(f"{what:<50} median {median(times):8.1f} ms  min {min(times):8.1f} ms   {note}", flush=True)


PARTS = {
    "root": _root,
    "user": _user,
    "sizes": _sizes,
    "throughput": _throughput,
    "proxy": _proxy,
    "machine": _machine,
}

if __name__ == "__main__":
    main()
