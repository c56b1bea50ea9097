"""Where Hyperlight's packages are, and whether they are those that we know (reads, and runs their Python)."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

from backends.digest import sha256
from backends.hyperlight.native.facts import LIBRARIES, PACKAGES, Packages, Place
from backends.hyperlight.native.words import without_repeats
from backends.hyperlight.needs import ENVIRONMENT, REQUIREMENTS
from backends.linux.boot_cache import cached
from backends.pathnames import within

__all__ = ["examine", "find_packages", "run_python"]

_DEADLINE_S = 30
_MODULES = ("hyperlight_sandbox", "hyperlight_sandbox_backend_wasm", "python_guest")
_PROGRAM = "resources/python-sandbox.aot"
_ASK = f"""
import json, os, sys, sysconfig
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
import hyperlight_sandbox, hyperlight_sandbox_backend_wasm
def pin(name):
    try: return name + "==" + version(name)
    except PackageNotFoundError: return ""
def place(name):
    found = find_spec(name)
    return found and (list(found.submodule_search_locations or ()) + [found.origin])[0] or name
get = sysconfig.get_config_var
stdlib = sysconfig.get_path("stdlib")
platstdlib = sysconfig.get_path("platstdlib", vars={{"platbase": sys.base_exec_prefix}})
shared = get("Py_ENABLE_SHARED") and os.path.join(get("LIBDIR") or "", get("INSTSONAME") or "")
print(json.dumps({{
    "pins": [pin(name) for name in {[pin.partition("==")[0] for pin in REQUIREMENTS]!r}],
    "modules": [place(name) for name in {list(_MODULES)!r}],
    "interpreter": os.path.realpath(sys.executable),
    "libraries": [path for path in (stdlib, platstdlib, shared) if path and os.path.exists(path)],
}}))
"""


def find_packages() -> tuple[Packages | None, str]:
    """The packages in our own environment, where the extra ``hyperlight`` is installed in it, else in prep's.

    Without them, None and why.
    """
    from importlib.util import find_spec

    reasons: list[str] = []
    if sys.executable and find_spec("hyperlight_sandbox") is not None:
        found, why = _examine(sys.prefix, sys.executable)  # we run from it: no check could help us any more
        if found is not None:
            return found, ""
        reasons.append(why)
    found, why = examine(ENVIRONMENT)
    return found, "; ".join((*reasons, why)) if found is None else ""


def examine(environment: str) -> tuple[Packages | None, str]:
    """The packages of one Python environment, or None and why they are not taken.

    Nothing of an environment is run that others than root and we may write to.
    """
    unsafe = _unsafe(environment)
    return (None, unsafe) if unsafe else _examine(environment, f"{environment}/bin/python3")


def _examine(environment: str, python: str) -> tuple[Packages | None, str]:
    try:
        found = json.loads(_asked(environment, python))
    except _CannotBeImported as error:
        return None, f"they cannot be imported: {error}"
    wrong = [wanted for wanted in REQUIREMENTS if wanted not in found["pins"]]
    if wrong:
        return None, f"{environment} lacks {' '.join(wrong)}"
    try:
        places = tuple(_places(found["interpreter"], found["libraries"], found["modules"]))
        os.stat(f"{found['modules'][-1]}/{_PROGRAM}")
    except OSError as error:
        return None, f"they are not all there: {error}"
    module = f"{PACKAGES}/{_MODULES[-1]}/{_PROGRAM}"
    return Packages(environment, python, found["interpreter"], REQUIREMENTS, places, module), ""


class _CannotBeImported(Exception):
    """Why, as their Python says."""


def _asked(environment: str, python: str) -> str:
    """What an environment has, asked once per boot of the host, and after something was installed in it."""

    def ask() -> str:
        status, said = run_python(python, _ASK)
        if status != 0:
            raise _CannotBeImported(without_repeats(said))
        return said

    digest = sha256(f"{_ASK} {environment} {python} {_changed(environment)}".encode()).hexdigest()
    return cached(f"hyperlight-packages-{digest[:24]}", ask)


def run_python(python: str, source: str, deadline_s: float = _DEADLINE_S) -> tuple[int, str]:
    """Exit status, and the last line that was printed, of Python source under that interpreter, alone."""
    try:
        done = subprocess.run(
            [python, "-I", "-B", "-c", source],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=deadline_s,
            cwd="/",
            env={},
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 1, str(error)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return done.returncode, lines[-1].strip() if lines else f"it ended with {done.returncode}"


def _changed(environment: str) -> str:
    """When something was last installed there, or its interpreter changed; "" where nothing is."""
    from glob import escape, glob

    seen: list[str] = []
    for path in (environment, *glob(f"{escape(environment)}/lib/python3*/site-packages")):
        try:
            status = os.lstat(path)
            seen.append(f"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_mode:o}-{status.st_uid}")
        except OSError:
            continue
    return ".".join(seen)


def _unsafe(environment: str) -> str:
    """Why nothing of this environment is run; "" when it is root's or ours alone."""
    try:
        status = os.lstat(environment)
    except OSError:
        return f"there is no {environment}"
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        return f"{environment} is not a directory that only root may write to"
    return ""


def _places(interpreter: str, libraries: list[str], modules: list[str]) -> list[Place]:
    """Those that are not among the `LIBRARIES` anyhow. Raises `OSError` for one that is not there."""
    found: dict[str, Place] = {}
    for path in (interpreter, *libraries):
        if not any(within(path, tree) for tree in LIBRARIES):
            found.setdefault(path, _place(path, path))
    for path in modules:
        found[path] = _place(path, f"{PACKAGES}/{os.path.basename(path)}")
    return list(found.values())


def _place(path: str, inside: str) -> Place:
    status = os.stat(path)
    return Place(path, inside, (status.st_dev, status.st_ino))
