"""The containments, and who starts them, that one suite of network tests runs on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.network.bed import HOST_ADDRESSES

__all__ = ["ENGINE_USERS", "FLAVOURS", "WEB_PROBES", "Flavour", "copy_python", "probes_input"]

_DEADLINE_MS = 60_000
_START = "\nmain()\n"
_ABOUT_OURSELVES = ("from __future__", "from tests.")


def _source(name: str) -> str:
    return Path(__file__).with_name(f"{name}.py").read_text()


def _to_append(source: str) -> str:
    return "".join(line for line in source.splitlines(True) if not line.startswith(_ABOUT_OURSELVES))


PROBES = _source("probes") + _START
WEB_PROBES = _source("probes") + _to_append(_source("web_probes")) + _START
_HOSTS_PYTHON = Path("/usr/bin/python3")
_UNUSED = (
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "config-*",
)


@dataclass(frozen=True)
class Flavour:
    """`caller` is ``root`` or ``user``; `python` a folder with an interpreter for who has none of its own;
    `image` that of a container."""

    containment: str
    caller: str
    python: Path | None = None
    image: str = ""

    @property
    def name(self) -> str:
        return f"{self.containment}-{self.caller}"

    @property
    def is_machine(self) -> bool:
        return self.containment in ("microvm", "vm", "hyperlight", "wslc")

    @property
    def takes_source(self) -> bool:
        """Whether a command line is source for its Python."""
        return self.containment in ("microvm", "hyperlight")

    @property
    def near(self) -> str:
        """Where a sandbox finds ports of the host's that it was given."""
        return "192.0.0.1" if self.is_machine else "127.0.0.1"

    @property
    def itself(self) -> tuple[str, ...]:
        """The host's addresses that are the sandbox's own inside: a user's helper gives it those."""
        return HOST_ADDRESSES if self.caller == "user" else ()

    def document(
        self,
        sections: Mapping[str, Any],
        *,
        source: str = PROBES,
        env: Sequence[str] = (),
    ) -> dict[str, Any]:
        """A config with the given sections, whose command is Python source.

        Parameters
        ----------
        sections: `version` (by default the newest), `network`, `mxcOps` …
        """
        whole: dict[str, Any] = {"version": "1.1.0-alpha", "containment": self.containment, **sections}
        process: dict[str, Any] = {"timeout": _DEADLINE_MS, "env": list(env)}
        ours: dict[str, Any] = dict(whole.get("mxcOps", {}))
        if self.containment == "hyperlight":
            whole["hyperlight"] = {"runtime": "python"}
        elif self.containment == "wslc":
            whole["wslc"] = {"image": self.image}
        if self.takes_source:
            process["commandLine"] = source
        else:
            ours["args"] = [self.interpreter, "-c", source]
            process["env"] += self.variables
        if self.python is not None:
            whole["filesystem"] = {"readonlyPaths": [str(self.python)]}
        return {**whole, "process": process} | ({"mxcOps": ours} if ours else {})

    @property
    def interpreter(self) -> str:
        return str(_HOSTS_PYTHON if self.python is None else self.python / "bin" / "python3")

    @property
    def variables(self) -> list[str]:
        return [] if self.python is None else [f"LD_LIBRARY_PATH={self.python}/lib"]


def copy_python(folder: Path) -> Path:
    """The host's Python, for sandboxes whose system is the host's kind and has none."""
    real = _HOSTS_PYTHON.resolve()
    library = Path("/usr/lib", real.name)
    home = folder / "python"
    (home / "bin").mkdir(parents=True)
    shutil.copy(real, home / "bin" / "python3")
    shutil.copytree(library, home / "lib" / real.name, ignore=shutil.ignore_patterns(*_UNUSED))
    for program in (real, *library.glob("lib-dynload/_ssl*.so"), *library.glob("lib-dynload/_hashlib*.so")):
        told = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        for line in told.splitlines():
            name, _, path = line.strip().partition(" => ")
            if path and not name.startswith(("libc.", "ld-")):
                shutil.copy(path.split()[0], home / "lib" / name)
    return home


def _flavour(containment: str, caller: str) -> Any:
    flavour = Flavour(containment, caller)
    return pytest.param(flavour, id=flavour.name, marks=pytest.mark.backend(containment))


FLAVOURS = [
    _flavour("bubblewrap", "root"),
    _flavour("bubblewrap", "user"),
    _flavour("lxc", "root"),
    _flavour("lxc", "user"),
    _flavour("microvm", "root"),
]
"""By every way in which a network is made."""
ENGINE_USERS = [_flavour("hyperlight", "root"), _flavour("wslc", "root")]
"""Machines again, in another's name."""


def probes_input(probes: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(probes)) + "\n"
