"""Stands in for the package ``hyperlight_sandbox``: its documented interface, without a machine.

Code runs in this very process, in names that stay, as the documented executor runs it: an exception is told
by its last line, and only exit codes that are whole numbers are kept. `FAULT` is what goes wrong; `trap` lets
the code that is run stop the machine in which it is thought to be.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAULT: str = ""
_MOST_OF_A_CALL = 16 * 1024
_trapped: list[str] = []


@dataclass
class ExecutionResult:
    stdout: str
    stderr: str
    exit_code: int


def trap(message: str) -> None:
    """Called by the code that is run: the machine stops."""
    _trapped.append(message)
    raise SystemExit(0)


class Sandbox:
    def __init__(
        self, *, backend: str, module_path: str, heap_size: str = "25Mi", stack_size: str = "35Mi"
    ) -> None:
        assert backend == "wasm"
        assert heap_size.endswith("Mi") and stack_size.endswith("Mi")
        assert Path(module_path).read_text() == "the guest's program"
        self._tools: dict[str, Callable[..., Any]] = {}
        self._names: dict[str, Any] = {"__builtins__": __builtins__, "call_tool": self._call_tool}

    def register_tool(self, name: str, callback: Callable[..., Any]) -> None:
        self._tools[name] = callback

    def _call_tool(self, name: str, **arguments: Any) -> Any:
        asked = json.dumps(arguments)
        assert len(asked) < _MOST_OF_A_CALL, "the call is too large"
        try:
            return json.loads(json.dumps(self._tools[name](**json.loads(asked))))
        except Exception as error:
            raise RuntimeError(f"Tool '{name}' failed: {error}") from error

    def run(self, code: str) -> ExecutionResult:
        _go_wrong()
        kept = sys.stdin, sys.stdout, sys.stderr
        sys.stdout, sys.stderr = stdout, stderr = io.StringIO(), io.StringIO()
        exit_code = 0
        try:
            exec(code, self._names)
        except SystemExit as end:
            exit_code = end.code if isinstance(end.code, int) else 1
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=stderr)
            exit_code = 1
        finally:
            sys.stdin, sys.stdout, sys.stderr = kept
        if _trapped:
            raise RuntimeError(f"Execution failed: guest execution failed: {_trapped[0]}")
        if FAULT == "panic":
            return ExecutionResult("", "the host's side panicked", -1)
        return ExecutionResult(stdout.getvalue(), stderr.getvalue(), exit_code)


def _go_wrong() -> None:
    if FAULT == "refused":
        refusal = "Failed to run vm: Unexpected VM exit: Unknown KVM VCPU exit: InternalError"
        raise RuntimeError(f"Failed to create sandbox: Internal error: {refusal}: {refusal}")
    if FAULT == "aborted":
        print("thread panicked at mod.rs", file=sys.stderr, flush=True)
        os.abort()
    if FAULT == "stuck":
        time.sleep(3600)
    if FAULT == "noisy":
        os.write(1, b"printed by the packages" * 10_000)
        os.write(2, b"warned by the packages")
    if FAULT == "exits":
        os._exit(0)
