"""Scripts about sandboxes that are kept, run by `in_namespace`: each function gets the flavour, and tells."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from mxc_ops import MxcError, Policy, Session, WslcSettings, network

Given = Mapping[str, Any]

SEVEN, EIGHT, NINE = (
    {"kind": "tcp", "to": f"192.0.2.{last}", "port": 8000, "wait": 10} for last in (7, 8, 9)
)
SIX = {"kind": "tcp", "to": "2001:db8:2::7", "port": 8000, "wait": 10}
OTHER_PORT = {**SEVEN, "port": 8001}
DEADLINE_S = 60
END = "/tmp/end"


def opened(given: Given, **fields: Any) -> Session:
    return Session.open(
        Policy(
            containment=given["containment"],
            network=network(**fields),
            read_only=given["read_only"],
            env=given["env"],
            wslc=WslcSettings(image=given["image"]) if given.get("image") else None,
        )
    )


def probed(given: Given, session: Session, *probes: Mapping[str, Any]) -> list[Any]:
    """Whether each is reached."""
    return [line["reached"] for line in told(given, session, *probes)]


def told(given: Given, session: Session, *probes: Mapping[str, Any]) -> list[dict[str, Any]]:
    result = session.exec(given["command"], input=f"{json.dumps(probes)}\n".encode())
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    if len(lines) != len(probes):
        raise RuntimeError(f"{result.exit_code} {result.stdout!r} {result.stderr!r}")
    return sorted(lines, key=lambda line: line["probe"])


def refused(what: Callable[[], object]) -> list[str]:
    """The codes of its refusal; none: it was not refused."""
    try:
        what()
    except MxcError as error:
        return [problem.code for problem in error.problems]
    return []


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError("it never came")
        time.sleep(0.02)


def decided(session: Session, verdict: str, **fields: Any) -> bool:
    """Whether an event says so."""
    return any(
        event["verdict"] == verdict and all(event.get(name) == value for name, value in fields.items())
        for event in session.events()
    )


# --- the scripts -----------------------------------------------------------------------------------


def changes(given: Given) -> dict[str, Any]:
    """Everything an owner may do to a sandbox's network, and what is reached after each."""
    all_of_them = (SEVEN, OTHER_PORT, EIGHT, NINE, SIX)
    came: dict[str, Any] = {}
    allow = ["192.0.2.7:8000/tcp", "[2001:db8:2::7]:8000"]
    with opened(given, allow=allow, may_allow=["192.0.2.0/24", "198.51.100.7:8000/tcp"]) as session:

        def look(when: str) -> None:
            came[when] = probed(given, session, *all_of_them)

        look("at first")
        session.change_network(allow=["192.0.2.8:8000/tcp"])
        look("allowed")
        came["beyond"] = [
            refused(lambda text=text: session.change_network(allow=[text]))
            for text in (
                "198.51.100.7",
                "198.51.100.7:8001/tcp",
                "192.0.0.0/16",
                "2001:db8:2::8",
                "public.test",
            )
        ]
        came["all or nothing"] = refused(
            lambda: session.change_network(allow=["192.0.2.9", "203.0.113.9"], deny=["192.0.2.7"])
        )
        look("after refusals")
        session.stop()
        session.start()
        look("started again")
        session.change_network(revoke=["192.0.2.8:8000/tcp"])
        look("revoked")
        came["not there"] = refused(lambda: session.change_network(revoke=["192.0.2.8:8000/tcp"]))
        session.change_network(deny=["192.0.2.7"])
        look("denied")
        session.stop()
        session.start()
        look("denied and started again")
        came["events"] = sorted(
            {(event["verdict"], event["address"], event["port"], event["rule"]) for event in session.events()}
        )
    return came


def an_open_connection(given: Given) -> dict[str, str]:
    """Two connections that are in use while one of them is denied."""
    with opened(given, allow=["192.0.2.0/24"]) as session:
        streams = [{**probe, "kind": "stream", "until": END} for probe in (SEVEN, EIGHT)]
        return _denied_in_use(given, session, streams, deny="192.0.2.7", address="192.0.2.7")


def an_open_connection_by_name(given: Given) -> dict[str, str]:
    """The same through the filtering proxy."""
    with opened(given, allow=["public.test", "second.test"]) as session:
        proxy = _proxy(given, session)
        streams = [
            {"kind": "stream", "until": END, **proxy, "wait": 10, "url": f"http://{name}/", "host": name}
            for name in ("public.test", "second.test")
        ]
        return _denied_in_use(given, session, streams, deny="public.test", name="public.test")


def _proxy(given: Given, session: Session) -> dict[str, Any]:
    reading = "import os; print(os.environ['http_proxy'])"
    done = session.exec(reading if given["python_source"] else [given["command"][0], "-c", reading])
    host, _, port = done.stdout.decode().strip().removeprefix("http://").rpartition(":")
    return {"to": host, "port": int(port)}


def _denied_in_use(
    given: Given, session: Session, streams: list[dict[str, Any]], *, deny: str, **event: Any
) -> dict[str, str]:
    said: list[dict[str, Any]] = []
    using = threading.Thread(target=lambda: said.extend(told(given, session, *streams)))
    using.start()
    names = [stream.get("host", stream["to"]) for stream in streams]
    key = "name" if "name" in event else "address"
    until(lambda: all(decided(session, "allowed", **{key: name}) for name in names))
    session.change_network(deny=[deny])
    trying = probed(given, session, {**streams[0], "wait": 10})
    ending = f"open({END!r}, 'w').close()"
    session.exec(ending if given["python_source"] else [given["command"][0], "-c", ending])
    using.join()
    until(lambda: decided(session, "denied", **event))
    return {
        "denied": f"{said[0]['reached']} {said[0]['said']}",
        "kept": f"{said[1]['reached']} {said[1]['said']}",
        "new": str(trying[0]),
    }


TRIES = """
import pathlib, socket, threading, time
end = pathlib.Path("/tmp/end")
broken = []

def again(number):
    try:
        with socket.create_connection(("192.0.2.8", 8000), 10) as sock:
            while not end.exists():
                sock.sendall(b"again\\n")
                if not sock.recv(65536):
                    raise OSError("closed")
                time.sleep(0.005)
    except OSError as error:
        broken.append(str(error))

keeping = [threading.Thread(target=again, args=(n,)) for n in range(4)]
for one in keeping:
    one.start()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    while not end.exists():
        for port in (8000, 8001):
            try:
                sock.sendto(b"denied", ("192.0.2.7", port))
            except OSError:
                pass
for one in keeping:
    one.join()
print(broken)
"""


def changed_often(given: Given) -> str:
    """Connections that are allowed, and datagrams that are not, while rules are replaced again and again."""
    command = TRIES if given["python_source"] else [given["command"][0], "-c", TRIES]
    with opened(given, allow=["192.0.2.0/24"], deny=["192.0.2.7"]) as session:
        said: list[bytes] = []
        using = threading.Thread(target=lambda: said.append(session.exec(command).stdout))
        using.start()
        until(lambda: decided(session, "allowed", address="192.0.2.8"))
        for number in range(given["times"]):
            session.change_network(deny=[f"192.0.2.{10 + number}"])
        ending = f"open({END!r}, 'w').close()"
        session.exec(ending if given["python_source"] else [given["command"][0], "-c", ending])
        using.join()
        return said[0].decode().strip()


def copies(given: Given) -> dict[str, Any]:
    """Forks and starts from snapshots are under the policy of now, that of the sandbox they come from."""
    came: dict[str, Any] = {}
    with opened(given, allow=["192.0.2.7:8000/tcp"], may_allow=["192.0.2.8"]) as session:
        came["original"] = probed(given, session, SEVEN, EIGHT, OTHER_PORT)
        session.change_network(allow=["192.0.2.8"])
        snapshot = session.snapshot()
        forked = session.fork(2).sessions
        try:
            came["forks"] = [probed(given, fork, SEVEN, EIGHT, OTHER_PORT, NINE) for fork in forked]
            forked[0].change_network(deny=["192.0.2.7"])
            came["one denied"] = [probed(given, one, SEVEN, EIGHT) for one in (forked[0], forked[1], session)]
            came["beyond"] = refused(lambda: forked[0].change_network(allow=["192.0.2.9"]))
        finally:
            for fork in forked:
                fork.close()
        session.change_network(deny=["192.0.2.8"])
        session.stop()
        session.start(snapshot.name)
        came["from snapshot"] = probed(given, session, SEVEN, EIGHT, OTHER_PORT)
    return came
