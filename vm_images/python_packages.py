"""Python packages for the guest's Python, from an index, by hash; laid out without running any of them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from backends.errors import BackendUnavailable, Problem
from vm_images.plan import Plan
from vm_images.requirements import logical_lines
from vm_images.tools import find_tool, run_tool

__all__ = ["find_pip", "install_requirements", "platform_tags"]

_FETCH_S = 900
_INSTALL_S = 600
_FIX = "apt-get install --yes python3-pip"
_OLD_NAMES = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}


def install_requirements(plan: Plan, scratch: Path) -> Path:
    """Download the recipe's requirements and lay them out; returns a directory called ``dist-packages``.

    Only wheels are taken, for nothing of a package must run here.

    Parameters
    ----------
    scratch: where to work; must not exist.

    Raises `BackendUnavailable` without pip, `PrepFailed` when a package cannot be had in that version.
    """
    scratch.mkdir()
    pinned, wheels, target = scratch / "requirements.txt", scratch / "wheels", scratch / "dist-packages"
    # Only what was checked: pip has rules of its own, and takes an encoding, say, from a comment.
    pinned.write_text("".join(f"{line}\n" for _, line in logical_lines(plan.recipe.requirements)))
    glibc = next(package.version for package in plan.packages if package.name == "libc6")
    chosen = [
        *("--only-binary", ":all:", "--no-deps", "--require-hashes", "-r", pinned),
        *("--implementation", "cp", "--python-version", plan.python),
        *(word for abi in (f"cp{plan.python.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)),
        *(word for tag in platform_tags(glibc, plan.machine) for word in ("--platform", tag)),
    ]
    pip = find_pip()
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check")
    fix = "pin versions that have wheels for this Python, and all that they depend on"
    run_tool([*pip, "download", *quiet, *chosen, "-d", wheels], deadline_s=_FETCH_S, fix=fix, retryable=True)
    offline = ("--no-index", "--find-links", wheels, "--no-compile", "--target", target)
    run_tool([*pip, "install", *quiet, *offline, *chosen], deadline_s=_INSTALL_S, fix=fix)
    _forget_programs(target)
    return target


def find_pip() -> Sequence[str]:
    """How pip is called on this host. Raises `BackendUnavailable` without one."""
    if importlib.util.find_spec("pip"):
        return (sys.executable, "-m", "pip")
    if pip := shutil.which("pip3", path="/usr/local/bin:/usr/bin"):
        return (pip,)
    python = find_tool("python3")
    if subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode == 0:
        return (python, "-m", "pip")
    message = "there is no pip on this host, and Python packages are fetched with it"
    raise BackendUnavailable(Problem("no_pip", "", message, fix=_FIX))


def platform_tags(glibc: str, machine: str) -> tuple[str, ...]:
    """What a wheel may be for (PEP 600): every glibc up to the guest's. Pure.

    Parameters
    ----------
    glibc: Debian's version of it, e.g. ``2.36-9+deb12u14``.
    """
    newest = int(glibc.partition("-")[0].split(".")[1])
    tags: list[str] = []
    for minor in range(newest, 4, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        tags += [f"{_OLD_NAMES[minor]}_{machine}"] if minor in _OLD_NAMES else []
    return (*tags, f"linux_{machine}", "any")


def _forget_programs(target: Path) -> None:
    """Their first lines name this host's Python: the guest has ``python3 -m`` for them."""
    shutil.rmtree(target / "bin", ignore_errors=True)
    for record in target.glob("*.dist-info/RECORD"):
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(line for line in lines if not line.startswith(("../../bin/", "bin/"))))
    for note in ("direct_url.json", "REQUESTED"):
        for path in target.glob(f"*.dist-info/{note}"):
            path.unlink()
