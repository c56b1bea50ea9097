"""Domains at a libvirt: its own driver for tests, which keeps them in memory, and libvirts that fail."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from backends.errors import BackendUnavailable, ConfigError, LaunchFailed, MxcError
from backends.frozen import replace
from backends.qemu.libvirt_connection import Connection
from backends.qemu.libvirt_domain import NAMESPACE, domain_xml
from backends.qemu.libvirt_host import DomainState, LibvirtHost
from tests.domains import CASES, UUID
from tests.guests import in_loop

URI = "test:///default"  # its domains are gone with the last connection to it
DOMAIN = CASES["microvm-tcg"]
NAME = DOMAIN.name
LONG_S = 3600.0


def code_of(refused: pytest.ExceptionInfo[Any]) -> str:
    error: MxcError = refused.value
    return error.problems[0].code


async def define_as_somebody_else(host: LibvirtHost, xml: str) -> None:
    await host.connection.call("defining", lambda raw: raw.defineXML(xml).name())


@in_loop
async def test_a_domain_is_defined_started_ended_and_forgotten() -> None:
    async with await LibvirtHost.open(URI) as host:
        assert await host.list() == ()
        await host.define(DOMAIN)
        defined = await host.state(NAME)
        assert (defined.state, defined.persistent, defined.image_key) == (
            DomainState.OFF,
            True,
            "sha256:0123",
        )
        await host.start(NAME)
        assert await host.list() == (replace(defined, state=DomainState.RUNNING),)
        await host.destroy(NAME)
        await host.destroy(NAME)
        assert await host.state(NAME) == defined, "it has ended, and is still known"
        await host.undefine(NAME)
        assert await host.list() == ()


@in_loop
async def test_a_domain_that_is_forgotten_while_it_runs_runs_on() -> None:
    async with await LibvirtHost.open(URI) as host:
        await host.define(DOMAIN)
        await host.start(NAME)
        await host.undefine(NAME)
        status = await host.state(NAME)
        assert (status.state, status.persistent) == (DomainState.RUNNING, False)
        await host.destroy(NAME)
        assert await host.list() == ()


@pytest.mark.parametrize("name", CASES)
@in_loop
async def test_libvirts_schema_has_all_that_we_say(name: str) -> None:
    async with await LibvirtHost.open(URI) as host:
        await host.define(CASES[name])


@in_loop
async def test_a_name_is_given_once() -> None:
    async with await LibvirtHost.open(URI) as host:
        await host.define(DOMAIN)
        before = await host.state(NAME)
        with pytest.raises(ConfigError, match="already exists") as refused:
            await host.define(replace(DOMAIN, image_key="sha256:other"))
        assert code_of(refused) == "domain_taken"
        assert await host.state(NAME) == before


@in_loop
async def test_domains_of_others_are_neither_listed_nor_touched() -> None:
    async with await LibvirtHost.open(URI) as host:
        await define_as_somebody_else(host, domain_xml(DOMAIN, UUID).replace(NAMESPACE, "urn:other"))
        assert await host.list() == ()
        for refused in (host.start(NAME), host.destroy("test"), host.undefine(NAME), host.state(NAME)):
            with pytest.raises(ConfigError, match="not defined by mxc-ops") as error:
                await refused
            assert code_of(error) == "domain_foreign"
        state = await host.connection.call("", lambda raw: raw.lookupByName("test").isActive())
        assert state == 1, "the driver's own domain runs on"


@in_loop
async def test_what_libvirt_refuses_is_told_with_what_was_to_be_done() -> None:
    async with await LibvirtHost.open(URI) as host:
        with pytest.raises(ConfigError, match=r"starting domain nobody: .*not found") as unknown:
            await host.start("nobody")
        assert (code_of(unknown), unknown.value.path) == ("domain_unknown", "name")
        assert unknown.value.fix == f"virsh -c '{URI}' list --all"
        await host.define(DOMAIN)
        with pytest.raises(LaunchFailed) as off:
            await host.attach(NAME, deadline_s=1)
        assert code_of(off) == "domain_off"


@in_loop
async def test_nothing_is_asked_of_a_connection_that_was_closed() -> None:
    host = await LibvirtHost.open(URI)
    await host.define(DOMAIN)
    with pytest.raises(ConfigError):
        await host.start("nobody")
    await host.close()
    await host.close()
    with pytest.raises(ValueError, match="closed"):
        await host.list()
    async with await LibvirtHost.open(URI) as again:
        assert await again.list() == (), "the first connection is really closed"


@in_loop
async def test_a_libvirt_that_falls_silent_is_given_up() -> None:
    go_on = threading.Event()
    connection = await Connection.open(URI, deadline_s=0.2)
    with pytest.raises(BackendUnavailable, match=r"within 0\.2 s") as silent:
        await connection.call("waiting", lambda _: go_on.wait(LONG_S))
    assert (code_of(silent), silent.value.retryable) == ("libvirt_silent", True)
    with pytest.raises(BackendUnavailable, match="new connection"):
        await connection.call("asking again", lambda raw: raw.getURI())
    await connection.close()
    go_on.set()


@in_loop
async def test_others_are_served_while_one_call_takes_its_time() -> None:
    go_on = threading.Event()
    async with await LibvirtHost.open(URI) as host:
        task = asyncio.create_task(host.connection.call("waiting", lambda _: go_on.wait(LONG_S)))
        await host.define(DOMAIN)
        go_on.set()
        assert await task


def test_a_silent_daemon_keeps_no_process_from_ending(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(tmp_path / "socket"))
        daemon.listen()
        uri = f"qemu+unix:///system?socket={tmp_path}/socket"
        code = (
            "import asyncio; from backends.qemu.libvirt_connection import Connection\n"
            f"asyncio.run(Connection.open({uri!r}, deadline_s=0.3))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert "libvirt_silent" not in done.stdout and "has not answered within 0.3 s" in done.stderr


@in_loop
async def test_where_nobody_answers_the_fix_is_to_prepare_the_host(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="No such file") as absent:
        await Connection.open(f"qemu+unix:///system?socket={tmp_path}/socket")
    assert (code_of(absent), absent.value.retryable) == ("libvirt_unreachable", True)
    assert absent.value.fix == "mxc-ops prep host --backend vm --feature libvirt --yes"


def test_without_its_module_the_fix_installs_it() -> None:
    code = (
        "import sys, asyncio; sys.modules['libvirt'] = None\n"
        "from backends.errors import MxcError\n"
        "from backends.qemu.libvirt_host import LibvirtHost\n"
        "try: asyncio.run(LibvirtHost.open('test:///default'))\n"
        "except MxcError as error: print(error.problems[0].code, error.fix)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("libvirt_module sudo apt-get install -y libvirt-dev")


def test_libvirt_is_loaded_by_the_first_connection_only() -> None:
    code = "import sys, backends.qemu.libvirt_host; print('libvirt' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
