"""There is no moment without rules: not at a start, nor while rules change, nor where they cannot be made."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import User
from tests.network.bed import Bed
from tests.network.cases import to
from tests.network.flavours import FLAVOURS
from tests.network.lab import Lab
from tests.network.link import Refused
from tests.security.host import wait_until
from tests.security.network_attacks import (
    ATTACKS,
    Front,
    StandIn,
    Watch,
    front,
    new_token,
    stand_in,
    watched,
    with_ctypes,
)
from tests.vm_engine import descendants, is_gone

pytest_plugins = ("tests.network.fixtures",)

ON_EACH = pytest.mark.parametrize("flavour", FLAVOURS)
SHARING_KERNEL = pytest.mark.parametrize("flavour", FLAVOURS[:4])
ALLOWED, ALLOWED6, BOARD = "192.0.2.7", "2001:db8:2::7", "192.0.2.90"
FORBIDDEN, FORBIDDEN6 = "192.0.2.66", "2001:db8:2::66"
ELSEWHERE = "192.0.2.67", "2001:db8:2::67"
"""Where what nothing guards sends, so that it is not taken for anybody else."""
ONE_ALLOWED = {"network": {"egress": {"allow": [to(ALLOWED, ALLOWED6)]}}}
AT_ONCE = r"""
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void attempt(int family, const char *address, const char *token)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(8000)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(8000)};
    void *place = family == AF_INET ? (void *)&four : (void *)&six;
    socklen_t length = family == AF_INET ? sizeof(four) : sizeof(six);
    inet_pton(family, address, family == AF_INET ? (void *)&four.sin_addr : (void *)&six.sin6_addr);
    int datagrams = socket(family, SOCK_DGRAM, 0), stream = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    (void)!sendto(datagrams, token, strlen(token), 0, place, length);
    (void)!connect(stream, place, length);
    close(datagrams);
    close(stream);
}

int main(int argc, char **argv)
{
    for (int i = 0; argc == 5 && i < atoi(argv[4]); i++) {
        attempt(AF_INET, argv[1], argv[3]);
        attempt(AF_INET6, argv[2], argv[3]);
        usleep(i < 100 ? 0 : 2000);
    }
    return 7;
}
"""
"""Nothing is loaded before its first instructions."""
STARTS = {"bubblewrap": (50, 50), "lxc": (8, 50), "microvm": (4, 50)}


@pytest.fixture(scope="module", autouse=True)
def python_with_ctypes(portable_python: Path) -> None:
    with_ctypes(portable_python)


@pytest.fixture(scope="module")
def watches(bed: Bed) -> Iterator[tuple[Watch, Watch]]:
    with watched(bed) as both:
        yield both


@pytest.fixture(scope="module")
def bare(bed: Bed) -> Iterator[StandIn]:
    with stand_in(bed) as made:
        yield made


@pytest.fixture(scope="module")
def at_once() -> Iterator[Path]:
    """The program, where every user finds it."""
    folder = Path(tempfile.mkdtemp(prefix="mxc-ops-at-once-"))
    folder.chmod(0o755)
    (folder / "at_once.c").write_text(AT_ONCE)
    build = ["gcc", "-static", "-O1", "-Wall", "-Werror", "-o", folder / "at_once", folder / "at_once.c"]
    subprocess.run(build, check=True)
    yield folder / "at_once"
    shutil.rmtree(folder)


# --- a start --------------------------------------------------------------------------------------------


def test_the_first_instructions_reach_it_where_nothing_guards_it(
    bare: StandIn, at_once: Path, watches: tuple[Watch, Watch]
) -> None:
    token = new_token()
    assert bare.execute([str(at_once), *ELSEWHERE, token, "200"]).returncode == 7
    assert {one.destination for one in watches[1].carrying(token)} >= {*ELSEWHERE}


@ON_EACH
def test_the_first_instructions_of_a_sandbox_are_held_already(
    lab: Lab, at_once: Path, watches: tuple[Watch, Watch], soak: bool
) -> None:
    """Many are started at once, so that whoever is to be there before is late where that is possible."""
    for watch in watches:
        watch.forget()
    forbidden, allowed = new_token(), new_token()
    documents = [
        start_document(lab, [str(at_once), *words])
        for words in ((FORBIDDEN, FORBIDDEN6, forbidden, "200"), (ALLOWED, ALLOWED6, allowed, "1000"))
    ]
    starts = [
        lab.at_host.send("run", document=documents[0], input="")
        for _ in range(STARTS[lab.flavour.containment][soak])
    ]
    starts.append(lab.at_host.send("run", document=documents[1], input=""))
    assert {start.result(120)["exitCode"] for start in starts} == {7}
    assert {one.destination for one in watches[1].carrying(allowed)} >= {ALLOWED, ALLOWED6}
    assert [one for watch in watches for one in watch.carrying(forbidden)] == []
    assert [one for watch in watches for one in watch.to_or_from(FORBIDDEN, FORBIDDEN6)] == []


def start_document(lab: Lab, words: Sequence[str]) -> dict[str, Any]:
    return {
        "version": "1.1.0-alpha",
        "containment": lab.flavour.containment,
        "process": {"timeout": 60_000, "env": []},
        "filesystem": {"readonlyPaths": [str(Path(words[0]).parent)]},
        "mxcOps": {"args": list(words)} | ({"vm": {"command": "args"}} if lab.flavour.is_machine else {}),
        **ONE_ALLOWED,
    }


# --- a change -------------------------------------------------------------------------------------------


@ON_EACH
def test_nothing_goes_on_once_it_is_denied_however_much_is_under_way(
    lab: Lab, watches: tuple[Watch, Watch]
) -> None:
    key, token = new_token(), new_token()
    probe = {
        "kind": "pour",
        "to": BOARD,
        "port": 8000,
        "count": 10,
        "token": token,
        "board": BOARD,
        "key": key,
    }
    flavour, python = lab.flavour, lab.flavour.python
    given = {
        "containment": flavour.containment,
        "command": ATTACKS if flavour.is_machine else [flavour.interpreter, "-c", ATTACKS],
        "input": json.dumps([probe]) + "\n",
        "allow": [BOARD],
        "read_only": [] if python is None else [str(python)],
        "env": dict(entry.split("=", 1) for entry in flavour.variables),
    }

    def scripted(function: str, **more: Any) -> Any:
        return lab.at_host.send("script", source=IN_SESSION, function=function, given={**given, **more})

    session = scripted("opened").result(60)
    try:
        pouring = scripted("executed", session=session)
        assert lab.bed.out_there.ask("heard", key=key) == "up"
        wait_until(lambda: len(watches[1].carrying(token)) > 100, "nothing pours")
        scripted("denied", session=session, deny=BOARD).result(60)
        for watch in watches:
            watch.forget()
        threading.Event().wait(0.5)
        assert not pouring.done()
        sent = [one for watch in watches for one in watch.carrying(token) if one.destination == BOARD]
        assert sent == []  # what a server sends again, because nobody acknowledges it, is not the sandbox's
    finally:
        scripted("closed", session=session).result(60)


IN_SESSION = """
from mxc_ops import Policy, Session, network

def opened(given):
    fields = {name: given[name] for name in ("containment", "read_only", "env")}
    return Session.open(Policy(**fields, network=network(allow=given["allow"]))).id

def executed(given):
    return Session.attach(given["session"]).exec(given["command"], input=given["input"].encode()).exit_code

def denied(given):
    Session.attach(given["session"]).change_network(deny=[given["deny"]])

def closed(given):
    Session.attach(given["session"]).close(discard=True)
"""


# --- where they cannot be made -----------------------------------------------------------------------------

FAILS = "#!/bin/sh\necho 'no such table' >&2\nexit 1\n"
LACKING = {
    "rules that are not taken": ("nft", FAILS, "network_not_made"),
    "rules that are lost": ("nft", "#!/bin/sh\nexec cat >/dev/null\n", "rules_not_there"),
    "no nft": ("nft", "", "nft_missing"),
    "nobody to carry a user's packets": ("pasta", "", "uplink_missing"),
    "somebody who does not carry them": ("pasta", FAILS, "network_not_made"),
}


def without(program: str, instead: str, folder: Path) -> list[str]:
    """Commands that put something else in the program's place, or what nobody can execute."""
    folder.chmod(0o755)
    stub = folder / program
    stub.write_text(instead)
    stub.chmod(0o755 if instead else 0o644)
    others = ["slirp4netns"] if program == "pasta" else []
    places = [
        Path(where, name)
        for name in (program, *others)
        for where in ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
    ]
    real = sorted({place.resolve() for place in places if place.exists()})
    return [f"mount --bind {stub} {place}" for place in real]


@pytest.mark.parametrize("lacking", LACKING)
@ON_EACH
def test_without_rules_nothing_is_started(
    lab: Lab, lacking: str, as_user: User, at_once: Path, watches: tuple[Watch, Watch]
) -> None:
    program, instead, code = LACKING[lacking]
    if program == "pasta" and lab.flavour.caller == "root":
        pytest.skip("root's packets go by a bridge")
    token = new_token()
    document = start_document(lab, [str(at_once), ALLOWED, ALLOWED6, token, "1"])
    user = as_user if lab.flavour.caller == "user" else None
    with front(lab.bed, user, without(program, instead, at_once.parent)) as own:
        _refused(own, document, code)
        assert nothing_of(own)
    assert [one for watch in watches for one in watch.carrying(token)] == []
    wait_until(lambda: links(lab.bed) == [], "a link is left")


@pytest.mark.parametrize("flavour", [FLAVOURS[0], FLAVOURS[2], FLAVOURS[4]])
def test_without_a_bridge_nothing_of_roots_is_started(lab: Lab, at_once: Path) -> None:
    """On a host of its own, where there is none."""
    document = start_document(lab, [str(at_once), ALLOWED, ALLOWED6, "x", "1"])
    with front(lab.bed, None, ["mount -t sysfs none /sys"], "unshare --net") as own:
        _refused(own, document, "uplink_missing")
        assert nothing_of(own)


def _refused(own: Front, document: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as caught:
        own.link.ask("run", document=document, input="")
    [problem] = caught.value.told["problems"]
    assert problem["code"] == code, problem
    assert problem["fix"].startswith("mxc-ops "), problem


def nothing_of(own: Front) -> bool:
    """But the process itself, and what it keeps for the next start."""
    wait_until(
        lambda: not [pid for pid in list(descendants(own.pid))[1:] if is_ours(pid)], "something is left"
    )
    return True


def is_ours(pid: int) -> bool:
    if is_gone(pid):
        return False
    words = Path(f"/proc/{pid}/cmdline").read_bytes()
    return any(word in words for word in (b"gate", b"egress", b"pasta", b"bwrap", b"lxc-start", b"qemu"))


def links(bed: Bed) -> list[str]:
    told = bed.run(["ip", "-o", "link"])
    return [line for line in told.splitlines() if ": mxc" in line and ": mxcbr0:" not in line]
