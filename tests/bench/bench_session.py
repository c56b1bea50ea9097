"""Sessions: ``python -m tests.bench.bench_session``. As root, with the image ``base``.

Every figure is a median over `ROUNDS` in one run. What is promised as a ratio is shown as one, of two things
that are measured in turns; the promises in milliseconds are for two processors under TCG.
"""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import mxc_ops
from mxc_ops import Policy
from mxc_ops.session.entry import Entry
from mxc_ops.session.service import Sessions
from mxc_ops.session.session import Session
from tests.bench.measure import in_turns, once_ms
from vm_images.store import find_image

ROUNDS = int(os.environ.get("MXC_BENCH_SESSION_ROUNDS", "15"))
CHILDREN = 10
LISTED = 200
SCRIPTS = Path(sys.executable).parent
TRUE = ("/bin/true",)
BARE = """\
lxc.net.0.type = empty
lxc.rootfs.path = overlayfs:{folder}/below:{folder}/above
lxc.mount.auto = proc:mixed sys:ro
lxc.autodev = 1
lxc.uts.name = bench
"""


def main() -> None:
    for part in ("mxc_ops", "vm_images", "backends"):
        compileall.compile_dir(Path(__file__).parents[2] / part, quiet=2)
    subprocess.run([SCRIPTS / "mxc-ops", "image", "build", "base"], check=True, capture_output=True)
    _bubblewrap()
    _lxc()
    _machine()
    _listing()


def _bubblewrap() -> None:
    policy = Policy(containment="bubblewrap")
    with Session.open(policy) as session:
        own, fresh = _in_turns(lambda: session.exec(TRUE), lambda: mxc_ops.run(policy, command=TRUE))
        _line("bubblewrap: exec true in a session", own)
        _line("bubblewrap: one-shot true", fresh, f"{median(fresh) / median(own):.1f} x, promised: 2 x")
        _cold("bubblewrap: exec from a cold command line", session)
    _line("bubblewrap: provision and start", _opened(policy))


def _lxc() -> None:
    policy = Policy(containment="lxc")
    with _bare_lxc() as (execute, attach):
        with Session.open(policy) as session:
            own, attached = _in_turns(lambda: session.exec(TRUE), attach)
            _line("LXC: exec true in a session", own)
            ratio = median(attached) / median(own)
            _line("LXC: lxc-attach true", attached, f"{ratio:.1f} x, promised: no slower")
            _cold("LXC: exec from a cold command line", session)
        own, executed = _in_turns(lambda: mxc_ops.run(policy, command=TRUE), execute)
        _line("LXC: one-shot true", own, f"{median(own) / median(executed):.1f} x, promised: 3 x")
        _line("LXC: lxc-execute true", executed)
    _line("LXC: provision and start", _opened(policy))


@contextmanager
def _bare_lxc() -> Generator[tuple[Callable[[], object], Callable[[], object]]]:
    """A container by LXC's tools alone, over the same image: to execute, and to attach to."""
    with tempfile.TemporaryDirectory() as folder:
        below = Path(folder, "below")
        for made in (below, Path(folder, "above")):
            made.mkdir()
        Path(folder).chmod(0o755)
        _quietly("mount", "-t", "erofs", "-o", "loop,ro", find_image("base").rootfs, below)
        config = Path(folder, "config")
        config.write_text(BARE.format(folder=folder))

        def of(tool: str, name: str) -> list[str]:
            return [f"lxc-{tool}", "--lxcpath", folder, "--name", name]

        running = [*of("execute", "running"), "--rcfile", str(config), "--", "/bin/sleep", "infinity"]
        container = subprocess.Popen(running)
        try:
            _quietly(*of("wait", "running"), "--state", "RUNNING")
            execute = [*of("execute", "one"), "--rcfile", str(config), "--", *TRUE]
            attach = [*of("attach", "running"), "--", *TRUE]
            yield lambda: _quietly(*execute), lambda: _quietly(*attach)
        finally:
            _quietly(*of("stop", "running"), "--kill")
            container.wait()
            _quietly("umount", below)


def _machine() -> None:
    policy = Policy(containment="vm")
    Session.open(policy).close()  # builds the template
    _line("VM: provision and start, from its template", _opened(policy), "promised: 200 ms")
    with Session.open(policy) as session:
        session.exec(TRUE)
        _line(
            "VM: exec true",
            [once_ms(lambda: session.exec(TRUE)) for _ in range(5 * ROUNDS)],
            "promised: 8 ms",
        )
        _cold("VM: exec from a cold command line", session)
        _line("VM: fork, 10 children answering", [_forked(session) for _ in range(5)], "promised: 1500 ms")


def _forked(session: Session) -> float:
    service = Sessions()
    begun = time.perf_counter()
    children = service.fork(session.id, CHILDREN)
    with ThreadPoolExecutor(CHILDREN) as pool:
        answers = list(pool.map(_answer, children))
    took = (time.perf_counter() - begun) * 1000
    for child in children:
        service.deprovision(child.id)
    if any(answers):
        raise RuntimeError(f"the children ended with {answers}")
    return took


def _answer(child: Entry) -> int | None:
    return Session.attach(child.id).exec(TRUE).exit_code


def _listing() -> None:
    service = Sessions()
    made = [service.provision(Policy(containment="bubblewrap")).id for _ in range(LISTED)]
    command = [SCRIPTS / "mxc-ops", "session", "list"]
    times = [once_ms(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(ROUNDS)]
    _line(f"session list with {LISTED} sandboxes, cold command line", times, "promised: 150 ms")
    _line("the same in a process that runs", [once_ms(service.entries) for _ in range(ROUNDS)])
    for one in made:
        service.deprovision(one)


def _quietly(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _cold(title: str, session: Session) -> None:
    command = [SCRIPTS / "mxc-ops", "session", "exec", session.id, "--", *TRUE]
    bare = [sys.executable, "-I", "-c", "pass"]
    own, python = _in_turns(
        lambda: subprocess.run(command, check=True, capture_output=True),
        lambda: subprocess.run(bare, check=True, capture_output=True),
    )
    _line(title, own, f"promised: 200 ms; an empty Python takes {median(python):.0f} ms")


def _opened(policy: Policy) -> list[float]:
    times: list[float] = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        session = Session.open(policy)
        times.append((time.perf_counter() - begun) * 1000)
        session.close()
    return times


def _in_turns(one: Callable[[], object], other: Callable[[], object]) -> tuple[list[float], list[float]]:
    durations = in_turns({"one": one, "other": other}, 3 * ROUNDS)
    return durations["one"], durations["other"]


def _line(title: str, times: list[float], promised: str = "") -> None:
    figures = f"min {min(times):8.1f}  median {median(times):8.1f}  max {max(times):8.1f} ms"
    print(f"  {title:<52} {figures}" + (f"  ({promised})" if promised else ""), flush=True)


if __name__ == "__main__":
    main()
