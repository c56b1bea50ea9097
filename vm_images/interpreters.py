"""The interpreters that may wait in a guest for source: what each takes in an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backends.frozen import frozen
from backends.inside.cells_source import python_modules
from backends.inside.store import NODE_ADDON, SOURCE_FOLDER, Program, source_key

__all__ = ["INTERPRETERS", "PRELOADED", "Interpreter"]

_FOLDER = "/usr/lib/mxc-ops"
PRELOADED = f"{_FOLDER}/preloaded.py"
"""What a Python that waits loads beside its script."""


@frozen
class Interpreter:
    """One of them.

    `package` is Debian's, `script` its source beside the agent's, `addon` what is compiled for it (None:
    nothing); both are put into the guest's `_FOLDER`. `line` is its line in the agent's configuration.
    """

    package: str
    script: str
    line: str
    addon: Program | None = None

    @property
    def script_path(self) -> str:
        return f"{_FOLDER}/{self.script}"

    @property
    def addon_path(self) -> str:
        """ "" without one."""
        return f"{_FOLDER}/{self.addon.name}" if self.addon else ""

    @property
    def addon_key(self) -> str:
        """What identifies the add-on's sources; "" without one."""
        return source_key(self.addon) if self.addon else ""

    def read_script(self) -> bytes:
        return Path(SOURCE_FOLDER, self.script).read_bytes()

    def read_preloaded(self) -> bytes:
        """What it loads for those who run cells (`backends.inside.cells_source`); nothing for most."""
        return python_modules().encode() if self.package == "python3" else b""


INTERPRETERS: Mapping[str, Interpreter] = {
    "python": Interpreter("python3", "zygote.py", f"zygote /usr/bin/python3 {_FOLDER}/zygote.py"),
    "node": Interpreter(
        "nodejs",
        "node.cjs",
        f"spare LD_PRELOAD={_FOLDER}/{NODE_ADDON.name} /usr/bin/node"
        f" --experimental-vm-modules --v8-pool-size=1 {_FOLDER}/node.cjs",
        NODE_ADDON,
    ),
}
"""By what a recipe calls them. What forks is a ``zygote``; of others each program takes its own ``spare``."""
