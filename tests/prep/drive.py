"""Carries operations out through pyinfra alone, as a deploy would: ``python -m tests.prep.drive < STEPS``.

Steps are a JSON array of ``{"operation", "arguments"}``, or ``{"reverse": ITEM, "insist"}`` for a record;
answered is an array of ``{"changed", "failed", "said"}``. It is a process of its own, as gevent patches it.
"""

# pyright: reportUnknownMemberType=false
# pyinfra annotates its contexts incompletely.

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from gevent import monkey

monkey.patch_all()

from pyinfra.api.config import Config  # noqa: E402 - only after gevent has patched the process
from pyinfra.api.connect import connect_all, disconnect_all  # noqa: E402 - as above
from pyinfra.api.exceptions import OperationError  # noqa: E402 - as above
from pyinfra.api.host import Host  # noqa: E402 - as above
from pyinfra.api.inventory import Inventory  # noqa: E402 - as above
from pyinfra.api.state import State, StateStage  # noqa: E402 - as above
from pyinfra.context import ctx_config, ctx_host, ctx_state  # noqa: E402 - as above

from mxc_ops.prep.decision import Decision, Query, Rule  # noqa: E402 - as above
from mxc_ops.prep.engine.applying import operation_named  # noqa: E402 - as above
from mxc_ops.prep.operations import kernel  # noqa: E402 - as above
from mxc_ops.prep.operations.common import Commands, follow, operation  # noqa: E402 - as above
from mxc_ops.prep.receipts import DIRECTORY, decode  # noqa: E402 - as above
from mxc_ops.prep.rules import kernel as rules  # noqa: E402 - as above


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # pyinfra prints
    _add_one_that_hangs()
    steps: list[dict[str, Any]] = json.load(sys.stdin)
    state = State(Inventory((["@local"], dict[str, Any]())), Config(), check_for_changes=False)
    with ctx_state.use(state):
        state.set_stage(StateStage.Connect)
        connect_all(state)
        state.set_stage(StateStage.Prepare)
        host = state.inventory.get_host("@local")
        with ctx_config.use(state.config.copy()), ctx_host.use(host):
            state.set_stage(StateStage.Execute)
            state.is_executing = True  # operations are carried out when they are called
            json.dump([_carry_out(state, host, step) for step in steps], answers)
        disconnect_all(state)


def _carry_out(state: State, host: Host, step: dict[str, Any]) -> dict[str, Any]:
    if "reverse" in step:
        receipt = decode(Path(f"{DIRECTORY}/{step['reverse']}.json").read_text())
        name, arguments = "receipts.reversed_change", {"receipt": receipt, "insist": step["insist"]}
    else:
        name, arguments = step["operation"], step["arguments"]
    before = len(host.op_hash_order)
    try:
        operation_named(name)(name=f"step {before}", _ignore_errors=True, **arguments)
    except OperationError as error:
        return {"changed": False, "failed": True, "said": str(error)}
    meta = state.ops[host][host.op_hash_order[before]].operation_meta
    said = "\n".join(meta.stdout_lines + meta.stderr_lines)
    return {"changed": meta.did_change(), "failed": meta.did_error(), "said": said}


def _add_one_that_hangs() -> None:
    """``kernel.hang``: an operation whose command starts another one and never ends."""

    def queries(**_arguments: str) -> tuple[Query, ...]:
        return ()

    def decide(*, note: str) -> Decision:
        command = f"sleep 300 & echo $! > {note}; wait"
        return Decision("not hanging", "hanging", (command,), deadline_s=1)

    def hang(note: str, item: str = "") -> Commands:
        yield from follow("kernel.hang", item, note=note)

    rules.__dict__["RULES"] = {**rules.RULES, "hang": Rule(queries, decide, decide)}
    kernel.__dict__["hang"] = operation(hang)


if __name__ == "__main__":
    main()
