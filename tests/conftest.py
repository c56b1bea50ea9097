"""Facilities every test may use: upstream's samples, an unprivileged user, the markers."""

from __future__ import annotations

import compileall
import fcntl
import gc
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from hypothesis import settings

from backends.linux.id_ranges import ID_FILES, overlaps
from backends.linux.subordinate_ids import ranges_of

CHECKOUT = Path(__file__).resolve().parent.parent
UNPRIVILEGED_UID = 61234
_GRANTED = 65_536
_PACKAGES = ("mxc_ops", "backends", "vm_images")
_DEPENDENCIES = ("pydantic", "rich", "jsonschema", "qemu.qmp", "dnspython", "h11")
_SCRIPTS = {"mxc-ops": "mxc_ops.cli", "mxc-exec": "mxc_ops.cli.exec_compat"}


def pytest_configure(config: pytest.Config) -> None:
    # How long an example takes depends on what else runs on this machine.
    settings.register_profile("mxc-ops", deadline=None)
    settings.load_profile("mxc-ops")
    config.addinivalue_line("markers", "backend(name): the test runs something in this containment")
    config.addinivalue_line("markers", "soak: runs only under MXC_SOAK=1 (./run-tests --soak)")


def pytest_collection_finish() -> None:
    """What there is now stays: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("MXC_SOAK") == "1":
        return
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="a soak test: ./run-tests --soak"))


@pytest.fixture(autouse=True)
def no_gevent(request: pytest.FixtureRequest) -> Iterator[None]:
    """gevent patches the whole process, and asyncio tests then fail strangely: tests/prep runs by itself."""
    yield
    if "gevent" in sys.modules and not request.node.nodeid.startswith("tests/prep/"):
        pytest.fail("gevent is loaded in this process; run tests/prep in a pytest of its own")


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether full counts are asked for; the default run takes a tenth."""
    return os.environ.get("MXC_SOAK") == "1"


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The top of this source tree."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Upstream's samples and schemas: `MXC_SHARED`, by default the folder ``shared`` beside the checkout."""
    folder = Path(os.environ.get("MXC_SHARED", CHECKOUT.parent / "shared"))
    if not (folder / "mxc-samples").is_dir():
        pytest.fail(f"{folder} has no mxc-samples: set MXC_SHARED to the folder that has upstream's samples")
    return folder


@dataclass(frozen=True)
class User:
    """An account without rights of its own, with a readable copy of the project and of what it imports.

    `home` is the user's own; `tree` has the packages, importable through `environment`.
    """

    uid: int
    gid: int
    home: Path
    tree: Path
    python: str
    environment: Mapping[str, str]

    def __call__(
        self,
        command: str | Sequence[str | Path],
        *,
        stdin: str | None = None,
        timeout_s: float = 60,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python source (a string) or an argument vector as this user; nothing is checked or raised.

        Parameters
        ----------
        stdin: text for standard input; None is an empty one.
        cwd: where to run; the user's home by default.
        env: variables in addition to `environment`.
        """
        child = self.popen(command, cwd=cwd, env=env)
        try:
            out, err = child.communicate((stdin or "").encode(), timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise
        return subprocess.CompletedProcess(
            child.args, child.returncode, out.decode(errors="replace"), err.decode(errors="replace")
        )

    def popen(
        self,
        command: str | Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start instead of run: the three streams are pipes."""
        root = os.geteuid() == 0
        return subprocess.Popen(
            [self.python, "-c", command] if isinstance(command, str) else [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd or self.home,
            env={**self.environment, **(env or {})},
            pass_fds=pass_fds,
            user=self.uid if root else None,
            group=self.gid if root else None,
            extra_groups=() if root else None,
        )


@pytest.fixture(scope="session")
def as_user() -> Iterator[User]:
    """`as_user(source_or_argv)` runs without privileges: as uid 61234 when we are root, else as ourselves."""
    tree = Path(tempfile.mkdtemp(prefix="mxc-ops-user-"))
    tree.chmod(0o755)
    try:
        _copy_project(tree)
        home = tree / "home"
        home.mkdir(mode=0o700)
        uid, gid = os.getuid(), os.getgid()
        if os.geteuid() == 0:
            uid = gid = UNPRIVILEGED_UID
            with Path(tempfile.gettempdir(), "mxc-ops-tests.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # other suites want one at the same time
                _make_account(uid)
            os.chown(home, uid, gid)
        environment = {
            "HOME": str(home),
            "PATH": f"{tree / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": f"{tree}:{tree / 'site-packages'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
        }
        yield User(uid, gid, home, tree, _public_python(), environment)
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _make_account(uid: int) -> None:
    """Ids are granted to accounts alone (newuidmap(1)): the user is one of the host's, and has some."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = "mxc-ops-tests"
        subprocess.run(["groupadd", "--gid", str(uid), name], check=True)
        account = ["--uid", str(uid), "--gid", str(uid), "--no-create-home", "--shell", "/usr/sbin/nologin"]
        subprocess.run(["useradd", *account, name], check=True)
    if ranges_of((name, str(uid)), _GRANTED) is None:
        texts = {file: Path(file).read_text() for file in ID_FILES if Path(file).exists()}
        first = next(
            start for start in range(100_000, 1 << 31, _GRANTED) if not overlaps(texts, start, _GRANTED)
        )
        ids = f"{first}-{first + _GRANTED - 1}"
        subprocess.run(["usermod", "--add-subuids", ids, "--add-subgids", ids, name], check=True)


def _public_python() -> str:
    """The interpreter below this environment, which other users must be allowed to execute."""
    python = Path(sys.executable).resolve()
    closed = [folder for folder in (python, *python.parents) if not folder.stat().st_mode & 0o001]
    if closed:
        pytest.fail(
            f"{python} cannot be executed by other users ({closed[-1]}): make .venv with /usr/bin/python3"
        )
    return str(python)


def _copy_project(tree: Path) -> None:
    for package in _PACKAGES:
        shutil.copytree(CHECKOUT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    site = tree / "site-packages"
    for name in _closure(_DEPENDENCIES):
        for file in distribution(name).files or ():
            if not file.parts[0].startswith("..") and file.suffix != ".pyc":
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), target)
    scripts = tree / "bin"
    scripts.mkdir()
    for name, module in _SCRIPTS.items():
        script = scripts / name
        script.write_text(f"#!{_public_python()}\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
    compileall.compile_dir(tree, quiet=2)
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.parent == scripts else 0o644)


def _closure(names: Sequence[str]) -> set[str]:
    """The given distributions and everything installed that they require."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            requirements = distribution(name).requires or ()
        except PackageNotFoundError:
            continue
        found.add(name)
        waiting += [_leading_name(text) for text in requirements if "extra ==" not in text]
    return found


def _leading_name(requirement: str) -> str:
    end = next(
        (place for place, letter in enumerate(requirement) if not (letter.isalnum() or letter in "-_.")), None
    )
    return requirement[:end]
