"""A model of a Windows machine, as far as our scripts ask and change it. It runs no PowerShell.

It acts on the lines ``# mxc:VERB JSON`` that our scripts carry, and answers in the spelling of Windows. What
it proves is what *we* do with answers: plans, order, receipts, refusals, ways back. Whether the PowerShell
below such a line does what the line says, only a Windows can tell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["UNSCRIPTED", "Answer", "Machine"]

UNSCRIPTED = 99
_VERB = re.compile(r"^# mxc:(\S+) (.*)$", re.MULTILINE)
_MARK = "=== mxc-ops survey"
_SCRIPTS = r"C:\ProgramData\mxc-ops\scripts"
_EXECUTOR = r"C:\Program Files\mxc-executor"
_AT_START = "O:BAG:SYD:(A;;0x1201bf;;;WD)(A;;FA;;;SY)(A;;FA;;;BA)(A;;0x1200a9;;;RC)"
_COMES_ALONG = {"Containers-DisposableClientVM": "VirtualMachinePlatform"}
_BRINGS_A_HYPERVISOR = ("HypervisorPlatform", "VirtualMachinePlatform")
_NEWEST_WSL = "2.9.4.0"


class Unscripted(Exception):
    """A script that the model does not know must not pass for one that worked."""


class Failed(Exception):
    """What PowerShell would throw."""


@dataclass
class Answer:
    stdout: list[str] = field(default_factory=list[str])
    error: str = ""
    code: int = 0


@dataclass(frozen=True)
class _Part:
    """One script of those that a script is made of."""

    verb: str
    told: dict[str, Any]
    body: str

    def literal(self, variable: str) -> str:
        """The text that a variable is given in this part."""
        found = re.search(rf"^\${variable}='((?:[^']|'')*)'", self.body, re.MULTILINE)
        assert found, f"${variable} in {self.verb}"
        return found.group(1).replace("''", "'")


def _parts(script: str) -> list[_Part]:
    heads = list(_VERB.finditer(script))
    ends = [*(head.start() for head in heads[1:]), len(script)]
    return [
        _Part(head.group(1), json.loads(head.group(2)), script[head.end() : end])
        for head, end in zip(heads, ends, strict=False)
    ]


def _as_kept(sddl: str) -> str:
    """A device keeps file rights for generic ones, and Windows prints what has no name as a number."""
    return sddl.removesuffix("S:").replace("GRGWGX", "0x1201bf").replace("GRGX", "0x1200a9")


@dataclass
class Machine:
    """Everything there is. The defaults are a fresh Windows 11 Pro, and an administrator logs in.

    `fails`: the verb at which PowerShell throws, once. `below`: it runs on another's hypervisor.
    """

    administrator: bool = True
    build: int = 26100
    revision: int = 4349
    edition: str = "Professional"
    restart_pending: list[str] = field(default_factory=list[str])
    features: dict[str, str] = field(
        default_factory=lambda: {
            "Containers-DisposableClientVM": "Disabled",
            "HypervisorPlatform": "Disabled",
            "Microsoft-Windows-Subsystem-Linux": "Disabled",
            "Printing-PrintToPDFServices-Features": "Enabled",
            "VirtualMachinePlatform": "Disabled",
        }
    )
    below: bool = False
    firmware: bool = True
    translation: bool = True
    launch: str = "Auto"
    wsl: str = ""
    wsl_in_utf16: bool = False
    distributions: list[str] = field(default_factory=list[str])
    drive: str = (
        "D:PAI(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;OICI;0x1200a9;;;BU)(A;CIIO;DCLCRPCR;;;AU)(A;;LC;;;AU)"
    )
    null_device: str = _AT_START
    task: dict[str, Any] | None = None
    script: str | None = None
    package: str | None = None
    files: list[str] | None = None
    npm: bool = True
    receipts: dict[str, str] = field(default_factory=dict[str, str])
    before: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    holder: str = ""
    fails: str = ""

    @staticmethod
    def load(path: Path) -> Machine:
        return Machine(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=1))
        new.replace(path)

    def restart(self) -> None:
        """Features that wait become real, the null device is made anew, tasks for the start run."""
        after = {"EnablePending": "Enabled", "DisablePending": "Disabled"}
        self.features = {name: after.get(state, state) for name, state in self.features.items()}
        self.restart_pending = []
        self.null_device = _AT_START
        if self.task and self.script:
            written = re.search(r"::Write\('\\\\\.\\NUL',23,'','([^']+)'\)", self.script)
            assert written, "the script sets the null device"
            self.null_device = _as_kept(written.group(1))

    def answer(self, script: str) -> Answer:
        """What a script prints, and its exit status, as it changes this machine."""
        outer, *inner = _parts(script) or [_Part("nothing", {}, script)]
        try:
            match outer.verb:
                case "survey":
                    assert len(inner) == outer.told["questions"]
                    return Answer(self._surveyed(inner))
                case "change":
                    return Answer(self._changed(outer, inner, script))
                case "run":
                    return Answer([line for part in inner for line in self._run(part)])
                case "reversal":
                    printed = [line for part in inner for line in self._run(part)]
                    self.receipts.pop(outer.told["item"], None)
                    return Answer(printed)
                case "holder":
                    return Answer([self.holder] if self.holder else [])
                case _:
                    return Answer(self._run(outer))
        except Unscripted as error:
            return Answer(error=f"unscripted: {error}", code=UNSCRIPTED)
        except Failed as error:
            return Answer(error=str(error), code=1)

    def _surveyed(self, questions: list[_Part]) -> list[str]:
        lines: list[str] = []
        for number, question in enumerate(questions):
            try:
                lines += self._run(question)
            except Failed as error:
                lines.append(json.dumps({"unreadable": str(error)}))
            lines.append(f"{_MARK} {number}")
        return lines

    def _changed(self, outer: _Part, inner: list[_Part], script: str) -> list[str]:
        item: str = outer.told["item"]
        begun, ended = re.findall(r"^Save-Receipt \((.*)\)$", script, re.MULTILINE)
        self.receipts[item] = _filled(begun, {"outcome": "pending"})
        if outer.told["snapshot"]:
            self.before.setdefault(item, self._run(inner.pop(0)))
        commands, measures = inner[: outer.told["commands"]], inner[outer.told["commands"] :]
        printed: list[str] = []
        values = {"outcome": "complete"}
        failure: Failed | None = None
        try:
            for part in commands:
                printed += self._run(part)
        except Failed as error:
            failure, values["outcome"] = error, "failed"
        for name, part in zip(outer.told["measured"], measures, strict=True):
            seen = set(self._run(part)) - set(self.before.get(item, ()))
            values[f"measured_{name}"] = json.dumps(sorted(seen))
        self.receipts[item] = _filled(ended, values)
        self.before.pop(item, None)
        if failure:
            raise failure
        return printed

    def _run(self, part: _Part) -> list[str]:
        if part.verb == self.fails:
            self.fails = ""
            raise Failed(f"{part.verb} fails on this machine")
        handler = getattr(self, f"_on_{part.verb.replace('-', '_')}", None)
        if handler is None:
            raise Unscripted(part.verb)
        if part.verb.startswith(_WRITING) and not self.administrator:
            raise Failed("Access is denied")
        return [line if isinstance(line, str) else json.dumps(line) for line in handler(part)]

    # --- questions

    def _on_host(self, _part: _Part) -> Iterator[Any]:
        yield {
            "caption": "Windows 10 Pro",
            "build": self.build,
            "revision": self.revision,
            "edition": self.edition,
            "administrator": self.administrator,
            "machine": "AMD64",
            "restartPending": self.restart_pending,
        }

    def _on_receipts(self, _part: _Part) -> Iterator[Any]:
        yield self.receipts

    def _on_features(self, _part: _Part) -> Iterator[Any]:
        yield self.features

    def _on_hypervisor(self, _part: _Part) -> Iterator[Any]:
        runnable = self.firmware and self.translation and self.launch == "Auto"
        own = runnable and any(self.features[name] == "Enabled" for name in _BRINGS_A_HYPERVISOR)
        launch = f"hypervisorlaunchtype    {self.launch}"
        yield {
            "present": own or self.below,
            # Windows does not see past a hypervisor.
            "firmware": self.firmware and not own,
            "translation": self.translation and not own,
            "platform": own if self.features["HypervisorPlatform"] == "Enabled" else None,
            "lines": ["", launch] if self.administrator else ["Access is denied."],
        }

    def _on_wsl(self, _part: _Part) -> Iterator[Any]:
        lines = [f"WSL-Version: {self.wsl}", "Kernelversion: 6.6.87.2-1"] if self.wsl else []
        if self.wsl_in_utf16:
            lines = ["".join(f"{letter}\0" for letter in line) for line in lines]
        yield {"present": True, "lines": lines, "distributions": self.distributions}

    def _on_system_drive(self, _part: _Part) -> Iterator[Any]:
        yield {"root": "C:\\", "sddl": self.drive}

    def _on_null_device(self, _part: _Part) -> Iterator[Any]:
        yield {"sddl": self.null_device}

    def _on_boot_task(self, part: _Part) -> Iterator[Any]:
        yield {"path": rf"{_SCRIPTS}\{part.told['task']}.ps1", "script": self.script, "task": self.task}

    def _on_executor(self, _part: _Part) -> Iterator[Any]:
        yield {
            "root": _EXECUTOR,
            "package": self.package,
            "architecture": "x64",
            "files": self.files,
            "npm": self.npm,
        }

    def _on_enabled_features(self, _part: _Part) -> Iterator[str]:
        yield from (name for name, state in self.features.items() if state.startswith("Enable"))

    _on_newly_enabled_features = _on_enabled_features

    def _on_executor_files(self, _part: _Part) -> Iterator[str]:
        yield from self.files or ()

    # --- changes

    def _on_enable_feature(self, part: _Part) -> Iterator[str]:
        name: str = part.told["feature"]
        for feature in (_COMES_ALONG.get(name, name), name):
            if not self.features[feature].startswith("Enable"):
                self.features[feature] = "EnablePending"
        self.restart_pending = ["component servicing"]
        yield from ()

    def _on_disable_features(self, part: _Part) -> Iterator[str]:
        for name in part.told["features"]:
            self.features[name] = "DisablePending"
        self.restart_pending = ["component servicing"]
        yield from ()

    def _on_update_wsl(self, _part: _Part) -> Iterator[str]:
        self.wsl = _NEWEST_WSL
        yield from ()

    def _on_uninstall_wsl(self, _part: _Part) -> Iterator[str]:
        self.wsl = ""
        yield from ()

    def _on_write_system_drive(self, part: _Part) -> Iterator[str]:
        self.drive = _written(part, self.drive).replace("PARAI", "PAI")
        yield from ()

    def _on_write_null_device(self, part: _Part) -> Iterator[str]:
        self.null_device = _as_kept(_written(part, self.null_device))
        yield from ()

    def _on_register_boot_task(self, part: _Part) -> Iterator[str]:
        path = rf"{_SCRIPTS}\{part.told['task']}.ps1"
        self.script = part.literal("script")
        self.task = {
            "xml": f"<Task><Exec>{path}</Exec></Task>",
            "user": "S-1-5-18",
            "command": r"%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe",
            "arguments": f'-NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File "{path}"',
            "atStart": True,
            "enabled": True,
        }
        yield from ()

    def _on_restore_boot_task(self, part: _Part) -> Iterator[str]:
        assert not part.told["registered"], "the model knows machines without a task before"
        self.script = self.task = None
        yield from ()

    def _on_install_executor(self, part: _Part) -> Iterator[str]:
        self.package = part.told["package"]
        self.files = ["package.json aa11", "bin/x64/wxc-exec.exe bb22", "bin/x64/wslcsdk.dll cc33"]
        yield from ()

    def _on_remove_executor(self, _part: _Part) -> Iterator[str]:
        self.package = self.files = None
        yield from ()

    def _on_forget(self, _part: _Part) -> Iterator[str]:
        yield from ()


_WRITING = (
    "enable-",
    "disable-",
    "update-",
    "uninstall-",
    "write-",
    "register-",
    "restore-",
    "install-",
    "remove-",
)


def _written(part: _Part, now: str) -> str:
    """What a script writes, once it has found what it expects."""
    found = re.search(r"::Write\('[^']*',\d+,'([^']*)','([^']*)'\)", part.body)
    assert found, "a descriptor is written"
    expected, wanted = found.groups()
    if expected != now:
        raise Failed(f"was changed meanwhile, it is now {now}")
    assert wanted == part.told["sddl"]
    return wanted


def _filled(expression: str, values: dict[str, str]) -> str:
    """The text of a receipt, from literals and variables."""
    known = {**values, "time": "2026-11-25T01:02:03Z"}
    words = re.findall(r"'((?:[^']|'')*)'|\$(\w+)", expression)
    return "".join(known[name] if name else literal.replace("''", "'") for literal, name in words) + "\n"
