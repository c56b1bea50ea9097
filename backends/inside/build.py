"""Build the launcher from the sources beside this file, and find it again in a store keyed by their hash.

A store is a directory of ``<key>/launcher``. The system's is root's and serves everybody; a user without it
has one of their own, which root never runs programs from.
"""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

from backends.digest import sha256
from backends.errors import BackendUnavailable, PrepFailed, Problem

SYSTEM_STORE = Path("/usr/local/lib/mxc-ops/helpers")
SOURCES = (
    "common.c",
    "inside.c",
    "landlock.c",
    "launcher.c",
    "launcher.h",
    "outside.c",
    "spec.c",
    "spec.h",
    "stage.c",
    "wire.h",
    "workload.c",
)
FLAGS = (
    "-std=c11",
    "-O2",
    "-fPIE",
    "-static-pie",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Wformat=2",
    "-Werror",
    "-D_FORTIFY_SOURCE=2",
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    "-Wl,-z,relro,-z,now",
    "-s",
)
_FLAGS_BY_MACHINE = {"x86_64": ("-fcf-protection",), "aarch64": ("-mbranch-protection=standard",)}
_NAME = "launcher"
_SOURCE_DIR = __file__.rpartition("/")[0]
_MAX_SOURCE_BYTES = 1 << 16
_COMPILE_SECONDS = 120


@cache
def source_key() -> str:
    """The launcher's identity: SHA-256, in hex, over sources, compiler flags and machine."""
    digest = sha256()
    for part in (os.uname().machine, *flags()):
        digest.update(part.encode() + b"\0")
    for name in SOURCES:
        fd = os.open(f"{_SOURCE_DIR}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        content = os.read(fd, _MAX_SOURCE_BYTES)
        os.close(fd)
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def flags() -> tuple[str, ...]:
    """Compiler and linker flags for this machine."""
    return FLAGS + _FLAGS_BY_MACHINE.get(os.uname().machine, ())


def user_store() -> Path:
    """Where a user keeps helpers of their own: below ``XDG_DATA_HOME``, else ``~/.local/share``."""
    data_home = os.environ.get("XDG_DATA_HOME", "")
    base = Path(data_home) if data_home.startswith("/") else Path.home() / ".local/share"
    return base / "mxc-ops/helpers"


def find_launcher() -> Path | None:
    """The launcher built from exactly these sources, from a store that nobody else can write to.

    The system's store first; a user's own only for that user, never for root.
    """
    key = source_key()
    if _is_owned(SYSTEM_STORE, key, owner=0):
        return SYSTEM_STORE / key / _NAME
    user = os.geteuid()
    if user == 0:
        return None
    store = user_store()
    return store / key / _NAME if _is_owned(store, key, owner=user) else None


def build_launcher(store: Path | None = None) -> Path:
    """Compile the launcher into `store` (default: the system's for root, else the user's); returns its path.

    Raises BackendUnavailable without a compiler or static C library, PrepFailed when the store cannot be
    written or the program that came out does not run.
    """
    import shutil
    import tempfile

    key = source_key()
    target = (store or (SYSTEM_STORE if os.geteuid() == 0 else user_store())) / key
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BackendUnavailable(_compiler_problem("no C compiler was found"))
    try:
        _make_directories(target)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
            program = Path(scratch) / _NAME
            _compile(compiler, key, program)
            _check(program, key)
            program.chmod(0o755)
            program.replace(target / _NAME)
    except OSError as error:
        message = f"the launcher could not be stored in {target}: {error.strerror}"
        fix = f"make {target.parent} a writable directory without noexec, or run as root: mxc-ops prep host"
        raise PrepFailed(Problem("launcher_store", "", message, fix=fix)) from error
    return target / _NAME


def _is_owned(store: Path, key: str, *, owner: int) -> bool:
    base = str(store)
    places = ((base, stat.S_IFDIR), (f"{base}/{key}", stat.S_IFDIR), (f"{base}/{key}/{_NAME}", stat.S_IFREG))
    try:
        for place, kind in places:
            status = os.lstat(place)
            if stat.S_IFMT(status.st_mode) != kind or status.st_uid != owner or status.st_mode & 0o022:
                return False
    except OSError:
        return False
    return True


def _make_directories(target: Path) -> None:
    """Readable by the sandboxes' identities whatever our umask is; nothing that existed before is changed."""
    missing = [directory for directory in (target, *target.parents) if not directory.exists()]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)


def _compile(compiler: str, key: str, program: Path) -> None:
    sources = [f"{_SOURCE_DIR}/{name}" for name in SOURCES if name.endswith(".c")]
    status, output = _run([compiler, *flags(), f'-DMXC_KEY="{key}"', "-o", str(program), *sources])
    if status != 0:
        raise BackendUnavailable(_compiler_problem(f"{compiler} failed with {status}: {output[-2000:]}"))


def _check(program: Path, key: str) -> None:
    status, output = _run([str(program), "--version"])
    if status != 0 or output.strip() != key:
        message = (
            f"the launcher just built answers {output.strip()[:200]!r} with status {status}, not its key"
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
    fix = "apt-get install --yes gcc libc6-dev (Fedora: dnf install gcc glibc-static)"
    return Problem("launcher_compiler", "", message.replace("\n", " "), fix=fix)
