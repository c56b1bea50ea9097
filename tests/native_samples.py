"""Made-up facts about a host where Hyperlight's packages run: what plans are made from in tests."""

from __future__ import annotations

from backends.bubblewrap.facts import BaselineEntry, Helper
from backends.frozen import replace
from backends.hyperlight.native.facts import Device, NativeFacts, Packages, Place
from backends.hyperlight.needs import REQUIREMENTS
from backends.linux.cgroups import NO_CGROUPS
from backends.linux.uid_range import UidRange

__all__ = ["ROOT_FACTS", "USER_FACTS"]

_ENVIRONMENT = "/usr/local/lib/mxc-ops/hyperlight"
_SITE = f"{_ENVIRONMENT}/lib/python3.12/site-packages"
_NAMES = ("hyperlight_sandbox", "hyperlight_sandbox_backend_wasm", "python_guest")

USER_FACTS = NativeFacts(
    why="",
    packages=Packages(
        environment=_ENVIRONMENT,
        python=f"{_ENVIRONMENT}/bin/python3",
        interpreter="/usr/bin/python3.12",
        versions=REQUIREMENTS,
        places=(
            Place("/usr/bin/python3.12", "/usr/bin/python3.12", (1, 10)),
            *(Place(f"{_SITE}/{name}", f"/packages/{name}", (1, 20 + at)) for at, name in enumerate(_NAMES)),
        ),
        module="/packages/python_guest/resources/python-sandbox.aot",
    ),
    device=Device("/dev/kvm", 0, 107, 0o660, 2792, usable=True, made="1-2"),
    helper=Helper("/usr/bin/bwrap", "0.8.0", (), setuid=False),
    launcher="/usr/local/lib/mxc-ops/helpers/0123/launcher",
    launcher_key="0123",
    landlock_abi=6,
    libraries=(
        BaselineEntry("/lib", "usr/lib"),
        BaselineEntry("/usr/lib"),
        BaselineEntry("/etc/ld.so.cache"),
    ),
    caller=(1001, 1001),
    uid_range=None,
    cgroups=NO_CGROUPS,
    seccomp={"default": "sha256:d", "strict": "sha256:s", "debug": "sha256:g"},
)
ROOT_FACTS = replace(USER_FACTS, caller=(0, 0), uid_range=UidRange(1_900_000_000, 4096))
