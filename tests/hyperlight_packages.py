"""Python environments with Hyperlight's packages: the installed ones, and such that stand in for them."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from backends.hyperlight.needs import REQUIREMENTS

__all__ = ["WASMTIME", "installed", "pretended", "with_the_real_guest"]

WASMTIME = "wasmtime==50.0.1"
_STAND_INS = Path(__file__).parent / "stand_ins"
_COMPILE = """
import sys, wasmtime
from wasmtime import component
engine = wasmtime.Engine(wasmtime.Config())
guest = component.Component.from_file(engine, sys.argv[1])
open(sys.argv[2], "wb").write(guest.serialize())
"""


def pretended(folder: Path, fault: str = "") -> Path:
    """A new environment whose packages are `stand_ins/hyperlight_pretended.py`.

    Parameters
    ----------
    fault: what goes wrong in it; see there.
    """
    _fill(_environment(folder), fault)
    return folder


@cache
def installed() -> Path:
    """An environment with the packages themselves and Wasmtime: installed when first needed, and kept."""
    wanted = (*REQUIREMENTS, WASMTIME)
    key = hashlib.sha256(repr((wanted, sys.version)).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir(), f"mxc-ops-tests-hyperlight-{key}")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other suites want it at the same time
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)
            subprocess.run([folder / "bin/python3", *install], check=True)
            folder.chmod(0o755)
            (folder / "complete").touch()
    return folder


@cache
def with_the_real_guest() -> Path:
    """One whose packages are `stand_ins/hyperlight_by_wasmtime.py`, with the packages' own guest."""
    folder = installed() / "by-wasmtime"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            site = _environment(folder)
            (theirs,) = installed().glob("lib/python3*/site-packages")
            _fill(site, "")
            package = site / "hyperlight_sandbox"
            shutil.copytree(theirs / "wasmtime", package / "with/wasmtime")
            guest = theirs / "python_guest/resources/python-sandbox.wasm"
            python = installed() / "bin/python3"
            subprocess.run([python, "-c", _COMPILE, guest, package / "guest.cwasm"], check=True)
            (folder / "complete").touch()
    (package,) = folder.glob("lib/python3*/site-packages/hyperlight_sandbox")
    shutil.copy(_STAND_INS / "hyperlight_by_wasmtime.py", package / "__init__.py")
    return folder


def _environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    folder.chmod(0o755)
    (site,) = folder.glob("lib/python3*/site-packages")
    return site


def _fill(site: Path, fault: str) -> None:
    for requirement in REQUIREMENTS:
        name, _, version = requirement.partition("==")
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for name in ("hyperlight_sandbox", "hyperlight_sandbox_backend_wasm", "python_guest"):
        (site / name).mkdir()
        (site / name / "__init__.py").touch()
    (site / "python_guest/resources").mkdir()
    (site / "python_guest/resources/python-sandbox.aot").write_text("the guest's program")
    source = (_STAND_INS / "hyperlight_pretended.py").read_text()
    (site / "hyperlight_sandbox/__init__.py").write_text(source.replace('str = ""', f"str = {fault!r}"))
