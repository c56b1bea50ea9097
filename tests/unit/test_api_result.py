"""`Result` and its JSON."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from backends.digest import Fingerprint
from backends.ended import LimitOutcome, Outcome, Usage
from backends.frozen import replace
from mxc_ops import CommandFailed, Result
from mxc_ops.provenance import Origin


class Plan:
    """As much of a plan as provenance reads."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "backend": "bubblewrap",
            "helper": {"version": "0.8.0"},
            "launcher": {"key": "abc"},
            "argv": ["é", "\udcff"],
        }


RESULT = Result(
    exit_code=0,
    outcome=Outcome.EXITED,
    signal=None,
    usage=Usage(1.23456, 2, 3, 4),
    limits=(LimitOutcome("pids", 5, "cgroup v2", "sandbox", True), LimitOutcome("cpus", 1, "x", "sandbox")),
    enforced=(("network", "empty network namespace"),),
    warnings=("careful",),
    origin=Origin(Fingerprint(lambda: "sha256:d"), Plan()),
    stdout="grün".encode(),
    stderr=b"\xff",
    stderr_dropped_bytes=7,
)


def test_the_json_says_everything_and_can_be_written():
    told = json.loads(json.dumps(RESULT.as_dict()))
    assert told["stdout"] == {"encoding": "utf-8", "data": "grün", "truncated": False, "droppedBytes": 0}
    assert told["stderr"] == {"encoding": "base64", "data": "/w==", "truncated": True, "droppedBytes": 7}
    assert told["limitsHit"] == ["pids"]
    assert told["enforced"] == [{"what": "network", "mechanism": "empty network namespace"}]
    assert told["provenance"]["documentHash"] == "sha256:d"
    assert told["provenance"]["versions"]["bubblewrap"] == "0.8.0"
    assert told["schemaVersion"] == 1


def test_the_plans_hash_depends_on_the_plan_only():
    assert RESULT.provenance == replace(RESULT, exit_code=1).provenance
    assert len(RESULT.provenance.plan_hash) == len("sha256:") + 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exit_code": 3}, r"exited with 3; limits hit: pids"),
        ({"exit_code": 139, "outcome": Outcome.SIGNALLED, "signal": 11}, r"ended by signal 11"),
        ({"exit_code": 124, "outcome": Outcome.TIMED_OUT}, r"timed out"),
        ({"exit_code": 137, "outcome": Outcome.KILLED, "signal": 9}, r"was killed"),
        ({"exit_code": 1, "stderr": b"x" * 999 + b"the end\n"}, r"it said: x+the end$"),
    ],
)
def test_check_raises_with_how_it_ended(changes: dict[str, Any], message: str):
    failed = replace(RESULT, **changes)
    with pytest.raises(CommandFailed, match=message) as caught:
        failed.check()
    assert caught.value.result is failed
    assert caught.value.code == "command_failed"


def test_a_result_can_be_pickled_for_another_process():
    assert pickle.loads(pickle.dumps(RESULT)).provenance == RESULT.provenance
