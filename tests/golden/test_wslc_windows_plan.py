"""Plans of WSL containers on Windows are data: the same request and facts give the same plan on any host.

`MXC_UPDATE_GOLDEN=1` rewrites the golden files; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends.base import Access, Environment, SandboxRequest, SecretSource, Stdin, StdinMode, Timeout
from backends.features import Asked, Feature
from backends.frozen import replace
from backends.network.policy import NetworkPolicy
from backends.wslc.windows.facts import Archive, ArchiveFormat, PathFact, WindowsFacts
from backends.wslc.windows.plan import plan_windows, plan_windows_exec
from backends.wslc_settings import PortMapping, WslcSettings
from tests.windows_hosts import directory, file, grants, host

GOLDEN = Path(__file__).parent / "wslc_windows"

HELLO = SandboxRequest("wslc", shell="echo 'Hello from WSL Container!' && uname -a", wslc=WslcSettings())
BRIDGED = NetworkPolicy(egress_allowed=True)
KEEP = Asked(Feature.KEEP_CONTAINER, "/lifecycle/destroyOnExit", "false")
ENVIRONMENT = Environment((("A", "secret value"),), (("TOKEN", SecretSource(file="C:\\token")),))
TREES = host(
    ("C:\\Code", directory("C:\\Code")),
    ("c:/code/out/", directory("C:\\Code\\out")),
    ("D:\\data\\in", directory("E:\\in")),
    ("C:\\CODE~1", directory("C:\\Code")),
    ("C:\\secret", PathFact("C:\\secret")),
)
TAR = host(("C:\\images\\tool.tar", file("C:\\images\\tool.tar")), ("D:\\wslc", PathFact("D:\\wslc")))
FROM_TAR = replace(HELLO, wslc=WslcSettings(image_tar="C:\\images\\tool.tar", storage="D:\\wslc"))

CASES: dict[str, tuple[SandboxRequest, WindowsFacts, bool]] = {
    "hello": (HELLO, host(), False),
    "grants": (
        replace(
            HELLO,
            grants=grants(
                ("C:\\Code", Access.READ_ONLY),
                ("c:/code/out/", Access.READ_WRITE),
                ("D:\\data\\in", Access.READ_ONLY),
                ("C:\\CODE~1", Access.READ_WRITE),
                ("C:\\secret", Access.DENIED),
            ),
        ),
        TREES,
        False,
    ),
    "everything-of-a-run": (
        replace(
            HELLO,
            shell=None,
            args=("/usr/bin/printf", "%s", "a b"),
            cwd="/tmp",
            environment=ENVIRONMENT,
            network=BRIDGED,
            stdin=Stdin(StdinMode.NONE),
            timeout=Timeout(5000, 200, "INT"),
            asked=(KEEP,),
            wslc=WslcSettings(
                image="registry.example/team/tool@sha256:" + "ab" * 32,
                cpus=2,
                memory_mib=1024,
                gpu=True,
                ports=(PortMapping(8080, 80),),
            ),
        ),
        host(),
        False,
    ),
    "root-file-system": (
        FROM_TAR,
        replace(TAR, archive=Archive(ArchiveFormat.ROOT_FILE_SYSTEM, "cd" * 32)),
        False,
    ),
    "image-archive": (
        FROM_TAR,
        replace(TAR, archive=Archive(ArchiveFormat.IMAGE, "cd" * 32, ("team/tool:1",))),
        False,
    ),
    "kept": (
        replace(HELLO, cwd="/mnt/c/Code", environment=ENVIRONMENT, timeout=Timeout(5000, 200)),
        host(),
        True,
    ),
}


def compare(name: str, document: object) -> None:
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("MXC_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("name", CASES)
def test_plan_is_as_recorded(name: str) -> None:
    request, facts, kept = CASES[name]
    compare(name, plan_windows(request, facts, kept=kept).as_dict())


def test_an_exec_is_as_recorded() -> None:
    request = replace(HELLO, cwd="/tmp", environment=ENVIRONMENT, timeout=Timeout(1000))
    compare("exec", [step.as_dict() for step in plan_windows_exec(request)])
