"""All checks, then all tests, then a table per backend; started by `./run-tests`.

The suites run at the same time, since most tests wait for something; what they print comes one after another.
The last line is always ``N passed, N failed, N skipped``; a check (lint, format, types, preparing this host)
counts as one test.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from backends import registry  # noqa: E402 - importable only once the checkout is on the path

_BIN = CHECKOUT / ".venv" / "bin"
# Of these only the packages: tests make their bridges, images and daemons in namespaces of their own.
_PACKAGES_FOR = {
    "--backend": ("bubblewrap", "lxc", "microvm", "vm", "wslc"),
    "--feature": ("network", "rootless", "build", "libvirt"),
}
CHECKS: Mapping[str, Sequence[str]] = {
    "lint": (f"{_BIN}/ruff", "check", "."),
    "format": (f"{_BIN}/ruff", "format", "--check", "."),
    "types": (f"{_BIN}/pyright",),
    "this host prepared": (
        *(f"{_BIN}/mxc-ops", "prep", "host", "--backend", "bubblewrap", "--feature", "sessions", "--yes"),
    ),
    "packages for tests": (
        *(f"{_BIN}/mxc-ops", "prep", "host", "--yes", "--item", "*.package.*"),
        *("--item", "*.network.package"),
        *(word for flag, names in _PACKAGES_FOR.items() for name in names for word in (flag, name)),
    ),
}
# pyinfra patches the process it is imported into, so its tests get a pytest of their own. Unit tests start no
# sandboxes that another test could take for its own; attacks know theirs by words that no other test uses;
# what builds images or machines from nothing is done with them, so that all take about the same time.
_FROM_NOTHING = ("tests/e2e/test_image_build.py", "tests/e2e/test_fresh_machine.py")
_ENGINE_USERS_AND_NETWORKS = tuple(
    str(path.relative_to(CHECKOUT))
    for kind in ("hyperlight", "node", "wslc", "container", "guest_containers", "network")
    for path in sorted((CHECKOUT / "tests" / "e2e").glob(f"test_{kind}*.py"))
)
SUITES: Mapping[str, Sequence[str]] = {
    "tests": (
        "tests",
        *(f"--ignore=tests/{folder}" for folder in ("prep", "unit", "security")),
        *(f"--ignore={path}" for path in (*_FROM_NOTHING, *_ENGINE_USERS_AND_NETWORKS)),
    ),
    "Hyperlight, containers, networks": _ENGINE_USERS_AND_NETWORKS,
    "attacks, and what is built from nothing": (*_FROM_NOTHING, "tests/security"),
    "unit tests": ("tests/unit",),
    "tests of host preparation": ("tests/prep",),
}
_DEADLINE_S = 45 * 60
_SOAK_DEADLINE_S = 6 * 60 * 60
_NOTHING_COLLECTED = 5
_KILLED = 124
_PAUSE_S = 0.1


@dataclass(frozen=True)
class TestResult:
    """One test: `backends` are the containments it declares, `reason` why it was skipped."""

    name: str
    outcome: str
    backends: tuple[str, ...] = ()
    reason: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="run-tests")
    parser.add_argument("--soak", action="store_true", help="full counts and the long tests")
    soak: bool = parser.parse_args().soak
    os.chdir(CHECKOUT)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # Whoever starts us in the background may have them ignored, and tests would inherit that.
        signal.signal(number, _stop)
    if soak:
        os.environ["MXC_SOAK"] = "1"
    results = [_run_check(title, argv) for title, argv in CHECKS.items()]
    results += run_suites(SUITES, _SOAK_DEADLINE_S if soak else _DEADLINE_S)
    results += _idle_backends(results)
    return _report(results)


def _stop(number: int, frame: object) -> NoReturn:
    """Ends by an exception, so that what was started is killed on the way out."""
    raise SystemExit(128 + number)


def _run_check(title: str, argv: Sequence[str]) -> TestResult:
    print(
        f"== {title}: {' '.join(Path(argv[0]).name if i == 0 else a for i, a in enumerate(argv))}", flush=True
    )
    try:
        code = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False, timeout=_DEADLINE_S).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error, flush=True)
        code = 1
    return TestResult(title, "passed" if code == 0 else "failed")


class _Suite:
    """One pytest that runs in a process group of its own, and prints into a file."""

    def __init__(self, title: str, arguments: Sequence[str], folder: Path) -> None:
        self.title = title
        self._report = folder / "report.json"
        self._printed = folder / "printed"
        argv = [sys.executable, "-m", "pytest", "-p", "tests.backend_report", "-ra", *arguments]
        with self._printed.open("wb") as printed:
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env={**os.environ, "MXC_TEST_REPORT": str(self._report)},
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill all of its process group, if it still runs."""
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def follow(self, give_up: float) -> list[TestResult]:
        """Show what it printed and prints until it ends, or is killed at `give_up` (monotonic time)."""
        print(f"== {self.title}", flush=True)
        code: int | None = None
        with self._printed.open(encoding="utf-8", errors="replace") as printed:
            while code is None:
                code = self._child.poll()
                if code is None and time.monotonic() >= give_up:
                    self.kill()
                    code = _KILLED
                sys.stdout.write(printed.read())
                sys.stdout.flush()
                if code is None:
                    time.sleep(_PAUSE_S)
        if code == _KILLED:
            print("killed: the time for it is over", flush=True)
        return self._results(code)

    def _results(self, code: int) -> list[TestResult]:
        rows: list[dict[str, Any]] = json.loads(self._report.read_text()) if self._report.exists() else []
        results = [
            TestResult(row["test"], row["outcome"], tuple(row["backends"]), row["reason"]) for row in rows
        ]
        failed = any(result.outcome == "failed" for result in results)
        if code not in (0, _NOTHING_COLLECTED) and not failed:
            results.append(TestResult(f"{self.title}: pytest ended with {code}", "failed"))
        return results


def run_suites(suites: Mapping[str, Sequence[str]], deadline_s: float) -> list[TestResult]:
    """Run every suite at the same time, and show their output one after another.

    Parameters
    ----------
    suites: what each is called, and what pytest is to run.
    deadline_s: seconds after which all that still runs is killed; so it is when this ends by an exception.
    """
    give_up = time.monotonic() + deadline_s
    with ExitStack() as started:
        running: list[_Suite] = []
        for title, arguments in suites.items():
            folder = started.enter_context(tempfile.TemporaryDirectory(prefix="mxc-ops-run-"))
            running.append(_Suite(title, arguments, Path(folder)))
            started.callback(running[-1].kill)
        return [result for suite in running for result in suite.follow(give_up)]


def _idle_backends(results: Sequence[TestResult]) -> list[TestResult]:
    """A backend that can run here and did not is a failure."""
    ran = {name for result in results if result.outcome != "skipped" for name in result.backends}
    return [
        TestResult(f"{name} can run on this platform, and no test of it was executed", "failed", (name,))
        for name in registry.available()
        if sys.platform in registry.CONTAINMENTS[name].platforms and name not in ran
    ]


def _report(results: Sequence[TestResult]) -> int:
    print("\n== what ran, by backend")
    print(f"{'backend':<20} {'passed':>7} {'failed':>7} {'skipped':>8}")
    names = sorted({name for result in results for name in result.backends} | set(registry.available()))
    for name in [*names, ""]:
        rows = [r for r in results if (name in r.backends if name else not r.backends)]
        count = Counter(row.outcome for row in rows)
        print(f"{name or '(no backend)':<20} {count['passed']:>7} {count['failed']:>7} {count['skipped']:>8}")
        reasons = Counter(row.reason for row in rows if row.outcome == "skipped")
        for reason, times in reasons.most_common():
            print(f"    skipped {times}: {reason}")
    failed = [result for result in results if result.outcome == "failed"]
    for result in failed:
        print(f"FAILED {result.name}" + (f": {result.reason}" if result.reason else ""))
    count = Counter(result.outcome for result in results)
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
