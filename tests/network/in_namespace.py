"""Runs inside the bed's host, as root or as a user, asked by JSON lines: `mxc_ops.run`, a plan, a script.

Started with its source as an argument, since the user need not be able to read this file.
"""

from __future__ import annotations

import json
import sys
import threading
import traceback
from typing import Any

import mxc_ops
from mxc_ops.sources import as_request

_WRITING = threading.Lock()


def main() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        threading.Thread(target=_answer, args=(json.loads(line),)).start()


def _answer(asked: dict[str, Any]) -> None:
    told: dict[str, Any] = {"id": asked["id"]}
    try:
        told["value"] = _DO[asked["op"]](asked)
    except mxc_ops.MxcError as error:
        problems = [problem.as_dict() for problem in error.problems]
        told |= {"error": str(error), "kind": type(error).__name__, "problems": problems}
    except BaseException:
        told |= {"error": traceback.format_exc(), "kind": "", "problems": []}
    text = json.dumps(told) + "\n"
    with _WRITING:
        sys.stdout.write(text)
        sys.stdout.flush()


def _run(asked: dict[str, Any]) -> dict[str, Any]:
    return mxc_ops.run(asked["document"], input=asked["input"].encode()).as_dict()


def _plan(asked: dict[str, Any]) -> Any:
    with mxc_ops.prepare(as_request(json.dumps(asked["document"]).encode())) as prepared:
        return prepared.plan.as_dict()


def _script(asked: dict[str, Any]) -> Any:
    """What a function of the source answers."""
    space: dict[str, Any] = {"__name__": "script"}
    exec(asked["source"], space)
    return space[asked["function"]](asked["given"])


_DO = {"run": _run, "plan": _plan, "script": _script}

main()
