"""pytest plugin: writes what ran, with the backends each test declares, to the file in MXC_TEST_REPORT.

A test declares its backend with ``@pytest.mark.backend("bubblewrap")``. Read by `tests/run.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

_results: dict[str, dict[str, object]] = {}
_ORDER = ("passed", "skipped", "failed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("backend"):
            item.user_properties.extend(("backend", str(name)) for name in marker.args)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.passed and report.when != "call":
        return
    before = _results.get(report.nodeid)
    if before and _ORDER.index(str(before["outcome"])) >= _ORDER.index(report.outcome):
        return
    _results[report.nodeid] = {
        "test": report.nodeid,
        "outcome": report.outcome,
        "backends": [value for name, value in report.user_properties if name == "backend"],
        "reason": _skip_reason(report) if report.skipped else "",
    }


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _results[report.nodeid] = {
            "test": report.nodeid,
            "outcome": "failed",
            "backends": [],
            "reason": "cannot be collected",
        }


def pytest_sessionfinish() -> None:
    target = os.environ.get("MXC_TEST_REPORT")
    if target:
        Path(target).write_text(json.dumps(list(_results.values())))


def _skip_reason(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail}"
    longrepr = report.longrepr
    return str(longrepr[2]).removeprefix("Skipped: ") if isinstance(longrepr, tuple) else str(longrepr)
