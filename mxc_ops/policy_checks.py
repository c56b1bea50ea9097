"""The rules for what may be said in a `Policy`; the same ranges as ``mxcOps`` in documents (design §3)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from backends.base import Limits, SecretSource, Stdin, StdinMode
from backends.errors import ConfigError, PolicyRefused, Problem
from backends.hyperlight_settings import Driver, HyperlightSettings, Runtime
from backends.network.policy import NetworkPolicy
from backends.virtual_machine import CommandKind, System, VirtualMachine
from backends.wslc_settings import PortMapping as ContainerPort
from backends.wslc_settings import WslcSettings
from mxc_ops.policy import machine
from mxc_ops.policy.command import MAX_STRING_BYTES, check_command, too_long
from mxc_ops.policy.features import LIMIT_FIELDS
from mxc_ops.policy.limit_ranges import LIMIT_RANGES
from mxc_ops.policy.network_checks import contradictions
from mxc_ops.policy.system import BOTH, faults, wanted_system

SIGNALS = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "KILL")
SECCOMP_PROFILES = ("default", "strict", "debug")
MAX_TIMEOUT_S = (2**32 - 1) / 1000
MAX_GRACE_S = 600.0
MAX_ID = 4294967293


def check(given: Mapping[str, Any]) -> None:
    """Check a policy's arguments, by name.

    Raises `ConfigError` with everything that is malformed, `PolicyRefused` for a network that contradicts
    itself.
    """
    problems = [*_paths(given), *_environment(given["env"]), *_limits(given["limits"])]
    problems += [*_times(given), *_choices(given), *_ids(given), *_stdin(given["stdin"])]
    problems += [*_machine(given["vm"]), *_hyperlight(given["hyperlight"]), *_system(given["system"])]
    problems += [*_container(given["wslc"])]
    network = given["network"]
    if not isinstance(network, NetworkPolicy):
        expected = 'mxc_ops.network(...), as network(allow=["example.test"])'
        problems.append(_problem("network", "not what network(...) answers", expected))
    if problems:
        raise ConfigError(problems)
    if refusals := list(contradictions(network)):
        raise PolicyRefused(refusals)


def split_command(
    command: str | Sequence[str], kind: CommandKind | None = None
) -> tuple[str | None, tuple[str, ...]]:
    """(text, ()) or (None, argument vector).

    Parameters
    ----------
    kind: what the command has to be in a virtual machine, where a text can also be Python source.

    Raises `ConfigError` for what cannot start a program, or is not of that kind.
    """
    words: list[Any] = [command] if isinstance(command, str) else list(command)
    if not words or not words[0] or (isinstance(command, str) and not command.strip()):
        raise ConfigError(Problem("empty_value", "command", "the command is empty", expected="a command"))
    problems = [
        _problem("command" if isinstance(command, str) else f"command[{index}]", wrong, "text without NUL")
        for index, word in enumerate(words)
        if (wrong := _text_fault(word))
    ]
    if problems:
        raise ConfigError(problems)
    shell, args = (command, ()) if isinstance(command, str) else (None, tuple(words))
    if kind is not None and (kind is CommandKind.ARGS) != (shell is None):
        is_one = "text" if shell is not None else "an argument vector"
        expected = "an argument vector" if shell is not None else f"one text, as vm.command is {kind.value}"
        raise ConfigError(
            Problem(
                "conflicting_fields",
                "vm.command",
                f"the command is said to be {kind.value!r}, and it is {is_one}",
                expected=expected,
            )
        )
    check_command(shell, args, "command", "command", kind)
    return shell, args


def _paths(given: Mapping[str, Any]) -> Iterator[Problem]:
    granted: set[Any] = set()
    for name in ("read_only", "read_write", "denied", "optional"):
        if isinstance(given[name], str | bytes | os.PathLike):
            yield _problem(name, "a single path, not a list", "a list of paths")
            continue
        for index, path in enumerate(given[name]):
            pointer = f"{name}[{index}]"
            text = _as_text(path)
            if wrong := _text_fault(text) or ("the path is empty" if not text.strip() else ""):
                yield _problem(pointer, wrong, "an absolute path")
            elif not text.startswith("/"):
                yield _problem(pointer, f"the path {text!r} is relative", "an absolute path")
            elif name == "optional" and text not in granted:
                yield _problem(pointer, f"{text!r} is not granted", "a path of read_only or read_write")
            elif name != "denied":
                granted.add(text)


def _environment(env: Any) -> Iterator[Problem]:
    if env is None:
        return
    if not isinstance(env, Mapping):
        yield _problem("env", "not a mapping", "names and values")
        return
    entries = cast("Mapping[Any, Any]", env)
    for name, value in entries.items():
        pointer = f"env[{name!r}]"
        if wrong := _text_fault(name):
            yield _problem(pointer, f"in the name: {wrong}", "text without NUL")
        elif not name or "=" in name:
            yield _problem(pointer, "the name is empty or holds '='", "a variable's name")
        elif isinstance(value, SecretSource):
            yield from _secret(pointer, value)
        elif wrong := _text_fault(value):
            yield _problem(pointer, f"in the value: {wrong}", "text without NUL, or a SecretSource")
        elif too_long(f"{name}={value}"):
            yield _problem(pointer, "longer than the kernel takes", f"less than {MAX_STRING_BYTES} bytes")


def _secret(pointer: str, source: SecretSource) -> Iterator[Problem]:
    if (source.file is None) == (source.fd is None):
        yield _problem(pointer, "a secret comes from a file or a descriptor", "exactly one of the two")
    elif source.file is not None and not source.file.startswith("/"):
        yield _problem(pointer, "the secret's file is given by a relative path", "an absolute path")
    elif source.fd is not None and source.fd < 3:
        yield _problem(pointer, "the secret's descriptor is a standard stream", "3 or more")


def _limits(limits: Any) -> Iterator[Problem]:
    if not isinstance(limits, Limits):
        yield _problem("limits", "not Limits", "mxc_ops.Limits(...)")
        return
    for spelled, name in LIMIT_FIELDS.items():
        value = getattr(limits, name)
        least, greatest = LIMIT_RANGES[spelled]
        whole = name != "cpus"
        if value is not None and not (_is_number(value, whole=whole) and least <= value <= greatest):
            expected = f"{'a whole number from ' if whole else ''}{least} to {greatest}"
            yield _problem(f"limits.{name}", f"{value!r} is out of range", expected)
    for unknown in sorted(limits.best_effort - LIMIT_FIELDS.keys()):
        yield _problem("limits.best_effort", f"no limit is called {unknown!r}", ", ".join(LIMIT_FIELDS))


def _times(given: Mapping[str, Any]) -> Iterator[Problem]:
    timeout_s, grace_s = given["timeout_s"], given["grace_s"]
    if timeout_s is not None and not (_is_number(timeout_s) and 0 < timeout_s <= MAX_TIMEOUT_S):
        yield _problem("timeout_s", f"{timeout_s!r} is out of range", f"0 < seconds ≤ {MAX_TIMEOUT_S:.0f}")
    if not (_is_number(grace_s) and 0 <= grace_s <= MAX_GRACE_S):
        yield _problem("grace_s", f"{grace_s!r} is out of range", f"0 ≤ seconds ≤ {MAX_GRACE_S:.0f}")


def _choices(given: Mapping[str, Any]) -> Iterator[Problem]:
    for name, choices in (("timeout_signal", SIGNALS), ("seccomp", SECCOMP_PROFILES)):
        if given[name] not in choices:
            yield _problem(name, f"{given[name]!r} is not known", ", ".join(choices))
    cwd = "/" if given["cwd"] is None else _as_text(given["cwd"])
    for name, value in (("cwd", cwd), ("containment", given["containment"]), ("name", given["name"])):
        if wrong := _text_fault(value):
            yield _problem(name, wrong, "text without NUL")
    if given["containment"] == "":
        yield _problem("containment", "it is empty", "a containment, e.g. 'process'")
    if isinstance(cwd, str) and not cwd.startswith("/"):
        yield _problem("cwd", f"the path {cwd!r} is relative", "an absolute path inside the sandbox")


def _ids(given: Mapping[str, Any]) -> Iterator[Problem]:
    for name in ("user", "group"):
        value = given[name]
        if value is not None and not (_is_number(value, whole=True) and 1 <= value <= MAX_ID):
            yield _problem(name, f"{value!r} is out of range", f"1 to {MAX_ID}")


def _stdin(stdin: Any) -> Iterator[Problem]:
    if not isinstance(stdin, Stdin):
        yield _problem("stdin", "not Stdin", "mxc_ops.Stdin(...)")
    elif stdin.mode is StdinMode.FILE and not stdin.content.startswith("/"):
        yield _problem("stdin", "the file is given by a relative path", "an absolute path")


def _machine(vm: Any) -> Iterator[Problem]:
    if vm is None:
        return
    if not isinstance(vm, VirtualMachine):
        yield _problem("vm", "not a VirtualMachine", "mxc_ops.VirtualMachine(...)")
        return
    given: dict[str, Any] = {name: getattr(vm, name) for name in machine.FIELDS.values()}
    for spelled, (least, greatest) in machine.VM_RANGES.items():
        name = machine.FIELDS[spelled]
        value = given[name]
        if value is not None and not (_is_number(value, whole=True) and least <= value <= greatest):
            expected = f"a whole number from {least} to {greatest}"
            yield _problem(f"vm.{name}", f"{value!r} is out of range", expected)
    accelerators = tuple(name for name in machine.ACCELERATORS if name != "auto")
    for name, choices in (("accelerator", accelerators), ("machine", machine.MACHINES)):
        if given[name] not in ("", *choices):
            yield _problem(f"vm.{name}", f"{given[name]!r} is not known", ", ".join(choices))
    image = given["image_name"]
    if not isinstance(image, str) or (image and not machine.is_image_name(image)):
        yield _problem("vm.image_name", f"{image!r} is not the name of an image", machine.A_NAME)
    if vm.image is not None:
        yield _problem("vm.image", "an image is found by its name", "None, and vm.image_name")
    if not isinstance(given["command"], CommandKind | None):
        yield _problem("vm.command", f"{given['command']!r} is not known", "mxc_ops.CommandKind")


def _hyperlight(settings: Any) -> Iterator[Problem]:
    if settings is None:
        return
    if not isinstance(settings, HyperlightSettings):
        yield _problem("hyperlight", "not HyperlightSettings", "mxc_ops.HyperlightSettings(...)")
        return
    for name, value, kind in (("runtime", settings.runtime, Runtime), ("driver", settings.driver, Driver)):
        if not isinstance(value, kind) and not (value is None and kind is Driver):
            yield _problem(f"hyperlight.{name}", f"{value!r} is not known", f"mxc_ops.{kind.__name__}")
    if settings.why:
        yield _problem("hyperlight.why", "how a driver was chosen is found out", "nothing")


def _container(settings: Any) -> Iterator[Problem]:
    if settings is None:
        return
    if not isinstance(settings, WslcSettings):
        yield _problem("wslc", "not WslcSettings", "mxc_ops.WslcSettings(...)")
        return
    for name, least in (("cpus", 1), ("memory_mib", 1)):
        value = getattr(settings, name)
        if value is not None and not (_is_number(value, whole=True) and least <= value < 2**32):
            yield _problem(f"wslc.{name}", f"{value!r} is out of range", f"a whole number from {least}")
    for name, kind in (
        ("image", str),
        ("image_tar", str),
        ("target_os", str),
        ("storage", str),
        ("gpu", bool),
    ):
        if not isinstance(getattr(settings, name), kind):
            yield _problem(f"wslc.{name}", "of the wrong type", kind.__name__)
    if settings.found is not None:
        yield _problem("wslc.found", "an image is found by its reference", "None, and wslc.image")
    taken: set[int] = set()
    ports: tuple[Any, ...] = settings.ports
    if not all(isinstance(port, ContainerPort) for port in ports):
        yield _problem("wslc.ports", "not ports", "backends.wslc_settings.PortMapping(…)")
        return
    for index, port in enumerate(settings.ports):
        pointer = f"wslc.ports[{index}]"
        if not (0 < port.host_port < 65536 and 0 < port.container_port < 65536):
            yield _problem(pointer, "a port is out of range", "1 to 65535")
        if port.host_port in taken:
            yield _problem(pointer, f"the host's port {port.host_port} is mapped twice", "a port of its own")
        taken.add(port.host_port)


def _system(system: Any) -> Iterator[Problem]:
    if system is None:
        return
    if not isinstance(system, System):
        yield _problem("system", "not a System", "mxc_ops.System(...)")
    elif len(system.releases) != 1 or not system.distribution:
        yield _problem("system", "not one distribution and one release", BOTH)
    else:
        asked = wanted_system(system.distribution, system.releases[0])
        yield from (_problem(f"system.{name}", message, fix) for name, message, fix in faults(asked))


def _is_number(value: Any, whole: bool = False) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return math.isfinite(value)


def _as_text(path: Any) -> Any:
    return path.__fspath__() if hasattr(path, "__fspath__") else path


def _text_fault(value: Any) -> str:
    if not isinstance(value, str):
        return f"{type(value).__name__} instead of text"
    if "\0" in value:
        return "it holds a NUL"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return ""


def _problem(pointer: str, message: str, expected: str) -> Problem:
    return Problem("invalid_value", pointer, message, expected=expected)
