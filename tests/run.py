"""All checks and all tests, one after another, then a table per backend; started by `./run-tests`.

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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from backends import registry  # noqa: E402 - importable only once the checkout is on the path

_BIN = CHECKOUT / ".venv" / "bin"
# Of these only the packages: tests make their bridges, images and daemons in namespaces of their own.
_PACKAGES_FOR = {
    "--backend": ("bubblewrap", "lxc", "microvm", "vm"),
    "--feature": ("network", "rootless"),
}
CHECKS: Mapping[str, Sequence[str]] = {
    "lint": (f"{_BIN}/ruff", "check", "."),
    "format": (f"{_BIN}/ruff", "format", "--check", "."),
    "types": (f"{_BIN}/pyright",),
    "this host prepared": (f"{_BIN}/mxc-ops", "prep", "host", "--backend", "bubblewrap", "--yes"),
    "packages for tests": (
        *(f"{_BIN}/mxc-ops", "prep", "host", "--yes", "--item", "*.package.*"),
        *(word for flag, names in _PACKAGES_FOR.items() for name in names for word in (flag, name)),
    ),
}
# pyinfra patches the process it is imported into, so its tests get a pytest of their own.
SUITES: Mapping[str, Sequence[str]] = {
    "tests": ("tests", "--ignore=tests/prep"),
    "tests of host preparation": ("tests/prep",),
}
_DEADLINE_S = 20 * 60
_SOAK_DEADLINE_S = 6 * 60 * 60
_NOTHING_COLLECTED = 5


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
        signal.signal(
            number, signal.SIG_DFL
        )  # started in the background, tests would inherit ignored signals
    if soak:
        os.environ["MXC_SOAK"] = "1"
    results = [_run_check(title, argv) for title, argv in CHECKS.items()]
    for title, arguments in SUITES.items():
        results += _run_suite(title, arguments, _SOAK_DEADLINE_S if soak else _DEADLINE_S)
    results += _idle_backends(results)
    return _report(results)


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


def _run_suite(title: str, arguments: Sequence[str], deadline_s: float) -> list[TestResult]:
    print(f"== {title}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mxc-ops-run-") as folder:
        report = Path(folder) / "report.json"
        argv = [sys.executable, "-m", "pytest", "-p", "tests.backend_report", "-ra", *arguments]
        code = _run_group(argv, {**os.environ, "MXC_TEST_REPORT": str(report)}, deadline_s)
        rows: list[dict[str, Any]] = json.loads(report.read_text()) if report.exists() else []
    results = [TestResult(row["test"], row["outcome"], tuple(row["backends"]), row["reason"]) for row in rows]
    explained = code in (0, _NOTHING_COLLECTED) or any(result.outcome == "failed" for result in results)
    return results if explained else [*results, TestResult(f"{title}: pytest ended with {code}", "failed")]


def _run_group(argv: Sequence[str], environment: Mapping[str, str], deadline_s: float) -> int:
    """Run in a process group of its own, all of which is killed when the time is over."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
    try:
        return child.wait(deadline_s)
    except subprocess.TimeoutExpired:
        print(f"killed after {deadline_s} s", flush=True)
        return 124
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


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
