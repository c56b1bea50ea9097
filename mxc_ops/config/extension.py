"""`mxcOps`, the one root key that is ours: its shape and its own rules.

Accepted by default in every version, on requests that run or create something; refused under
`Strictness.CONTRACT`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from backends.errors import Problem
from mxc_ops.config import extension_network, wording
from mxc_ops.config.models.kinds import (
    FLAG,
    TEXT,
    TEXTS,
    Kind,
    Shape,
    choice,
    either,
    integer,
    list_of,
    named,
    number,
    required,
    section,
    text,
)
from mxc_ops.policy import containers, machine
from mxc_ops.policy.limit_ranges import LIMIT_RANGES

KEY = "mxcOps"

LIMITS = tuple(LIMIT_RANGES)


def _limit(name: str) -> Kind:
    least, greatest = LIMIT_RANGES[name]
    return number(least, greatest) if name == "cpus" else integer(int(least), int(greatest))


_ID = integer(1, 2**32 - 3)

SHAPES: dict[str, Shape] = {
    "MxcOps": {
        "limits": section("MxcOpsLimits"),
        "user": _ID,
        "group": _ID,
        "seccomp": choice("default", "strict", "debug"),
        "args": list_of(TEXT, min_length=1),
        "stdin": either(
            "'inherit', 'none', {\"file\": an absolute path} or {\"text\": a string}",
            choice("inherit", "none"),
            section("MxcOpsStdinFile"),
            section("MxcOpsStdinText"),
        ),
        "tty": FLAG,
        "timeout": section("MxcOpsTimeout"),
        "optionalPaths": TEXTS,
        "env": named(
            either(
                '{"file": an absolute path} or {"fd": a descriptor, 3 or more}',
                section("MxcOpsSecretFile"),
                section("MxcOpsSecretDescriptor"),
            )
        ),
        "vm": section("MxcOpsVm"),
        "hyperlight": section("MxcOpsHyperlight"),
        "wslc": section("MxcOpsWslc"),
        "network": section("MxcOpsNetwork"),
        "portMappings": list_of(section("MxcOpsPortMapping")),
    },
    **extension_network.SHAPES,
    "MxcOpsLimits": {
        **{name: _limit(name) for name in LIMITS},
        "bestEffort": either("true, false or an array of limit names", FLAG, list_of(choice(*LIMITS))),
    },
    "MxcOpsStdinFile": {"file": required(text(1))},
    "MxcOpsStdinText": {"text": required(TEXT)},
    "MxcOpsTimeout": {
        "graceMs": integer(0, 600_000),
        "signal": choice("TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "KILL"),
    },
    "MxcOpsSecretFile": {"file": required(text(1))},
    "MxcOpsSecretDescriptor": {"fd": required(integer(3, 2**31 - 1))},
    "MxcOpsVm": {
        "image": text(1),
        **{name: integer(*bounds) for name, bounds in machine.VM_RANGES.items()},
        "accel": choice(*machine.ACCELERATORS),
        "machine": choice(*machine.MACHINES),
        "command": choice(*machine.COMMANDS),
    },
    "MxcOpsWslc": dict.fromkeys(containers.OWN_FIELDS, FLAG),
    "MxcOpsHyperlight": {"driver": choice(*machine.DRIVERS)},
}


def check(extension: dict[str, Any], body: Mapping[str, Any]) -> Iterator[Problem]:
    """The rules between fields of a well-shaped `mxcOps` and the rest of the document."""
    args: list[str] = extension.get("args") or []
    if args and not args[0]:
        yield Problem("empty_value", "/mxcOps/args/0", "the program's name is empty", expected="a program")
    process: dict[str, Any] = body.get("process") or {}
    if args and process.get("commandLine") is not None:
        yield Problem(
            "conflicting_fields",
            "/mxcOps/args",
            "both process.commandLine and mxcOps.args say what to run",
            expected="exactly one of the two",
            fix="remove process.commandLine, or mxcOps.args",
        )
    yield from _check_machine(extension.get("vm") or {}, bool(args))
    yield from _check_paths(extension, body)
    yield from _check_secrets(extension, process)
    yield from extension_network.check(extension)


def _check_machine(vm: dict[str, Any], has_args: bool) -> Iterator[Problem]:
    image: str | None = vm.get("image")
    if image is not None and not machine.is_image_name(image):
        yield Problem(
            "invalid_value",
            "/mxcOps/vm/image",
            f"{wording.shown(image)} is not the name of an image",
            expected=machine.A_NAME,
            fix="mxc-ops image list shows the images of this host",
        )
    kind: str | None = vm.get("command")
    if kind is not None and has_args != (kind == "args"):
        said = "there are mxcOps.args" if has_args else "there are no mxcOps.args"
        yield Problem(
            "conflicting_fields",
            "/mxcOps/vm/command",
            f"the command is said to be {wording.shown(kind)}, and {said}",
            expected="'args' with mxcOps.args, any other with process.commandLine",
            fix="remove mxcOps.vm.command, or say the command as it wants it",
        )


def _check_paths(extension: dict[str, Any], body: Mapping[str, Any]) -> Iterator[Problem]:
    stdin = extension.get("stdin")
    if isinstance(stdin, dict) and not _is_absolute(cast("dict[str, Any]", stdin)):
        yield _not_absolute("/mxcOps/stdin/file")
    filesystem: dict[str, Any] = body.get("filesystem") or {}
    granted = {path for name in ("readonlyPaths", "readwritePaths") for path in filesystem.get(name) or ()}
    for index, path in enumerate(extension.get("optionalPaths") or ()):
        if path not in granted:
            yield Problem(
                "not_granted",
                f"/mxcOps/optionalPaths/{index}",
                f"{wording.shown(path)} is neither in filesystem.readonlyPaths nor in readwritePaths",
                expected="a path of one of the two lists, spelt the same",
                fix="add it to filesystem.readonlyPaths or filesystem.readwritePaths, or remove it here",
            )


def _check_secrets(extension: dict[str, Any], process: dict[str, Any]) -> Iterator[Problem]:
    plain = {entry.partition("=")[0] for entry in process.get("env") or ()}
    sources: dict[str, dict[str, Any]] = extension.get("env") or {}
    for name, source in sources.items():
        pointer = wording.pointer(("mxcOps", "env", name))
        if "=" in name:
            yield Problem("invalid_value", pointer, "the variable's name contains '='", expected="a name")
        if name in plain:
            yield Problem(
                "conflicting_fields",
                pointer,
                f"process.env sets the variable '{wording.name(name)}' too",
                fix="remove it from process.env",
            )
        if not _is_absolute(source):
            yield _not_absolute(pointer + "/file")


def _is_absolute(source: dict[str, Any]) -> bool:
    path: str = source.get("file", "/")
    return path.startswith("/")


def _not_absolute(pointer: str) -> Problem:
    return Problem("relative_path", pointer, "the path is relative", expected="an absolute path")
