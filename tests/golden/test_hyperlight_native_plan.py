"""Plans of Hyperlight's native driver are data: the same request and facts give the same plan on any host.

`MXC_UPDATE_GOLDEN=1` rewrites the golden files; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends.base import (
    Access,
    Environment,
    FilesystemView,
    Grant,
    Limits,
    SandboxRequest,
    SecretSource,
    Timeout,
)
from backends.frozen import replace
from backends.hyperlight.native.facts import NativeFacts
from backends.hyperlight.native.plan import plan_native
from backends.linux.cgroups import CgroupFacts
from tests.native_samples import ROOT_FACTS, USER_FACTS

GOLDEN = Path(__file__).parent / "hyperlight_native"

pytestmark = pytest.mark.backend("hyperlight")

PLAIN = SandboxRequest("hyperlight", shell="print(1)")
GROUPS = CgroupFacts("v1", {"memory": "/cg/memory", "pids": "/cg/pids", "cpu": "/cg/cpu"})
ALL_LIMITS = Limits(
    memory_mib=120, pids=10, cpus=0.5, cpu_seconds=3, file_size_mib=1, open_files=64, tmp_mib=8
)

CASES: dict[str, tuple[SandboxRequest, NativeFacts, FilesystemView]] = {
    "user": (PLAIN, USER_FACTS, FilesystemView()),
    "root": (PLAIN, ROOT_FACTS, FilesystemView()),
    "root-limits": (
        replace(
            PLAIN,
            args=("one", "two"),
            environment=Environment((("A", "secret value"),), (("TOKEN", SecretSource(file="/run/token")),)),
            grants=(Grant("/etc/shadow", Access.DENIED, "/filesystem/deniedPaths/0"),),
            limits=ALL_LIMITS,
            timeout=Timeout(5000, 200, "INT"),
        ),
        replace(ROOT_FACTS, cgroups=GROUPS),
        FilesystemView(denied=("/etc/shadow",), decisions=("/etc/shadow: denied",)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_plan_is_as_recorded(name: str) -> None:
    text = json.dumps(plan_native(*CASES[name]).as_dict(), indent=1, sort_keys=True) + "\n"
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("MXC_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
