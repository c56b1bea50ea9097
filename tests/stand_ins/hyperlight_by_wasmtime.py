"""Stands in for the package ``hyperlight_sandbox``: the packages' own guest, run by Wasmtime.

The guest's Python, its library, its executor and its calls to the host are the real ones; what is missing are
the machine and the host's side of it. The guest was compiled ahead: `module_path` is not looked at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER / "with"))


@dataclass
class ExecutionResult:
    stdout: str
    stderr: str
    exit_code: int


class Sandbox:
    def __init__(self, **_: Any) -> None:
        self._tools: dict[str, Callable[..., Any]] = {}

    def register_tool(self, name: str, callback: Callable[..., Any]) -> None:
        self._tools[name] = callback

    def run(self, code: str) -> ExecutionResult:
        wasmtime: Any = import_module("wasmtime")
        component: Any = import_module("wasmtime.component")
        engine = wasmtime.Engine(wasmtime.Config())
        guest = component.Component.deserialize_file(engine, str(FOLDER / "guest.cwasm"))
        store, linker = wasmtime.Store(engine), component.Linker(engine)
        store.set_wasi(wasmtime.WasiConfig())
        store.set_wasi_http()
        linker.add_wasip2()
        linker.add_wasi_http()

        def dispatch(_store: object, name: str, arguments: str) -> Any:
            try:
                return component.Variant("ok", json.dumps(self._tools[name](**json.loads(arguments))))
            except Exception as error:
                return component.Variant("err", str(error))

        with linker.root() as root, root.add_instance("hyperlight:sandbox/tools") as tools:
            tools.add_func("dispatch", dispatch)
        instance = linker.instantiate(store, guest)
        executor = instance.get_export_index(store, "hyperlight:sandbox/executor")
        run = instance.get_func(store, instance.get_export_index(store, "run", executor))
        try:
            result: Any = run(store, code)
        except (wasmtime.WasmtimeError, wasmtime.ExitTrap, wasmtime.Trap) as error:
            raise RuntimeError(f"Execution failed: guest execution failed: {error!r}") from error
        return ExecutionResult(result.stdout, result.stderr, getattr(result, "exit-code"))
