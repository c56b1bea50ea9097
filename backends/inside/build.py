"""Build our programs from the sources beside this file into a store (see `backends.inside.store`).

musl's C library rather than glibc's: it starts in 0.07 ms instead of 0.65 where a hypervisor traps CPUID,
and each sandbox starts the launcher twice.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from backends.errors import BackendUnavailable, PrepFailed, Problem
from backends.inside.store import SOURCE_FOLDER, SYSTEM_STORE, Program, flags, source_key, user_store

COMPILERS = ("musl-gcc", "gcc", "cc")
_COMPILE_SECONDS = 120


def build_program(program: Program, store: Path | None = None) -> Path:
    """Compile `program` into `store` (default: the system's for root, else the user's); returns its path.

    Raises BackendUnavailable without a compiler or static C library, PrepFailed when the store cannot be
    written or the program that came out does not run.
    """
    key = source_key(program)
    target = (store or Path(SYSTEM_STORE if os.geteuid() == 0 else user_store())) / key
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise BackendUnavailable(_compiler_problem("no C compiler was found"))
    try:
        _make_directories(target)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
            built = Path(scratch) / program.name
            _compile(compiler, program, key, built)
            if not program.shared:
                _check(built, key)
            built.chmod(0o755)
            built.replace(target / program.name)
    except OSError as error:
        message = f"the {program.name} could not be stored in {target}: {error.strerror}"
        fix = f"make {target.parent} a writable directory without noexec, or run as root: mxc-ops prep host"
        raise PrepFailed(Problem("launcher_store", "", message, fix=fix)) from error
    return target / program.name


@cache
def source_archive(program: Program) -> str:
    """A program's sources as a gzipped tar in base64, the same bytes each time: to be compiled elsewhere."""
    import base64
    import gzip
    import io
    import tarfile

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in program.sources:
            content = Path(SOURCE_FOLDER, name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return base64.b64encode(gzip.compress(packed.getvalue(), mtime=0)).decode()


def _make_directories(target: Path) -> None:
    """Readable by the sandboxes' identities whatever our umask is; nothing that existed before is changed."""
    missing = [directory for directory in (target, *target.parents) if not directory.exists()]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)


def _compile(compiler: str, program: Program, key: str, built: Path) -> None:
    sources = [f"{SOURCE_FOLDER}/{name}" for name in program.sources if name.endswith(".c")]
    options = flags(shared=program.shared)
    status, output = _run([compiler, *options, f'-DMXC_KEY="{key}"', "-o", str(built), *sources])
    if status != 0:
        raise BackendUnavailable(_compiler_problem(f"{compiler} failed with {status}: {output[-2000:]}"))


def _check(built: Path, key: str) -> None:
    status, output = _run([str(built), "--version"])
    if status != 0 or output.strip() != key:
        message = (
            f"the {built.name} just built answers {output.strip()[:200]!r} with status {status}, not its key"
        )
        fix = "build it where programs may be executed: mxc-ops prep host --backend bubblewrap"
        raise PrepFailed(Problem("launcher_broken", "", message, fix=fix))


def _run(argv: list[str]) -> tuple[int, str]:
    import subprocess

    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=_COMPILE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {_COMPILE_SECONDS} s"
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _compiler_problem(message: str) -> Problem:
    fix = "apt-get install --yes musl-tools libc6-dev (Fedora: dnf install musl-gcc kernel-headers)"
    return Problem("launcher_compiler", "", message.replace("\n", " "), fix=fix)
