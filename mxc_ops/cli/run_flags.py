"""The flags of ``mxc-ops run -- CMD…``, and the policy they say."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backends.base import Limits, SecretSource, Stdin, StdinMode
from backends.errors import MxcError, Problem
from mxc_ops.cli.machine_flags import (
    FLAGS,
    add_machine_flags,
    command_from_flags,
    container_from_flags,
    hyperlight_from_flags,
    machine_from_flags,
)
from mxc_ops.policy.machine import FIELDS, OF_CONTAINER_IMAGES

if TYPE_CHECKING:
    from backends.base import SandboxRequest
    from backends.network.policy import NetworkPolicy
    from backends.virtual_machine import System
    from mxc_ops.policy_builder import Policy

_LIMITS = ("memory", "pids", "cpus", "cpu_seconds", "file_size", "open_files", "tmp")
_LIMIT_FIELDS = {"memory": "memory_mib", "file_size": "file_size_mib", "tmp": "tmp_mib"}

_NETWORK_FLAGS = {
    "network.default": "--net",
    "network.allow": "--allow-net",
    "network.deny": "--deny-net",
    "network.publish": "--publish",
    "network.reach_host": "--reach-host",
    "network.proxy": "--proxy",
}

# Argument of `Policy` → the flag that the user wrote, for error messages.
_FLAGS = {
    "read_only": "--ro",
    "read_write": "--rw",
    "denied": "--deny",
    "optional": "--optional",
    "timeout_s": "--timeout",
    "grace_s": "--grace",
    "containment": "--backend",
    "limits.memory_mib": "--memory",
    "limits.file_size_mib": "--file-size",
    "limits.tmp_mib": "--tmp",
    "command": "CMD",
    "system": "--distribution",
    "system.distribution": "--distribution",
    "system.release": "--release",
    **_NETWORK_FLAGS,
    "/process/cwd": "--cwd",
    "/containment": "--backend",
    **FLAGS,
}

# Fields that the advice of errors speaks of → the flag that says the same.
_FIELDS = {
    "an entry of mxcOps.optionalPaths": "--optional with the same path",
    "filesystem.readonlyPaths or readwritePaths": "--ro or --rw",
    "in filesystem.readonlyPaths": "with --ro",
    "a path of read_only or read_write": "a path of --ro or --rw",
    "mxcOps.limits.bestEffort": "--best-effort",
    "remove system": "remove --distribution and --release",
    "remove hyperlight": "remove --runtime and --driver",
    "mxcOps.hyperlight.driver: ": "--driver ",
    'network(allow=["*"], deny=[…])': "--allow-net '*' and --deny-net, without --net all",
    'network(allow=[…]) without default="allow"': "--allow-net without --net all",
    'network(publish=["8080:80"])': "--publish 8080:80",
    "network.egress.default 'deny'": "no --net all",
    "network.egress.default": "--net all",
    "leave out proxy, or allow and deny": "leave out --proxy, or --allow-net and --deny-net",
    **{f"mxcOps.vm.{field}: ": f"{FLAGS[f'vm.{argument}']} " for field, argument in FIELDS.items()},
    **{f"mxcOps.vm.{field}": FLAGS[f"vm.{argument}"] for field, argument in FIELDS.items()},
    **{argument: flag for argument, flag in FLAGS.items() if "." in argument},
}


def add_policy_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("policy of a command after --").add_argument
    for flag, what in (
        ("--ro", "host path that is readable"),
        ("--rw", "host path that is readable and writable"),
        ("--deny", "host path that is hidden"),
        ("--optional", "granted path that may be missing"),
    ):
        add(flag, action="append", metavar="PATH", help=what)
    for flag, shape, what in (
        ("--env", "K=V", "variable, besides PATH and TERM"),
        ("--env-file", "K=PATH", "variable whose value is the content of a file"),
        ("--env-fd", "K=FD", "variable whose value is read from a descriptor"),
    ):
        add(flag, action="append", type=_pair(shape), metavar=shape, help=what)
    add("--backend", metavar="B", help="containment; by default this platform's own")
    add("--timeout", type=float, metavar="S", help="seconds until the command is ended")
    add("--grace", type=float, metavar="S", help="seconds between SIGTERM and SIGKILL at the timeout")
    add("--memory", type=int, metavar="MIB", help="memory in MiB")
    add("--pids", type=int, metavar="N", help="number of processes and threads")
    add("--cpus", type=float, metavar="X", help="processors' worth of time")
    add("--cpu-seconds", type=int, metavar="S", help="processor time of each process")
    add("--file-size", type=int, metavar="MIB", help="size of each file written, in MiB")
    add("--open-files", type=int, metavar="N", help="open descriptors of each process")
    add("--tmp", type=int, metavar="MIB", help="size of the private /tmp in MiB")
    add("--best-effort", action="store_true", help="run even where nothing here can hold a limit")
    _add_network_flags(parser)
    add("--seccomp", metavar="PROFILE", help="default, strict or debug")
    add("--cwd", metavar="DIR", help="working directory inside")
    add("--tty", action="store_true", help="give the command a terminal")
    add("--stdin", choices=("inherit", "none"), help="what the command reads; by default what we read")
    add("--user", type=int, metavar="UID", help="host uid to run as (root only)")
    add("--group", type=int, metavar="GID", help="host gid to run as (root only)")
    add = parser.add_argument_group("the container of --backend lxc").add_argument
    add(
        "--distribution",
        metavar="D",
        help="system that its root is; by default the image base, whatever it is",
    )
    add("--release", metavar="R", help="that system's release, as bookworm")
    add_machine_flags(parser)


def _add_network_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("network of a command after --; by default there is none").add_argument
    add("--net", choices=("none", "all"), help="all: whatever --deny-net does not name")
    for flag, shape, what in (
        ("--allow-net", "SPEC", "HOST-OR-CIDR[:PORT[-PORT]][/tcp|/udp|/icmp]; * and *.NAME are hosts, too"),
        ("--deny-net", "SPEC", "the same; goes before --allow-net"),
        ("--publish", "PORTS", "[HOSTADDR:]HOST:SANDBOX[/udp]: a port of the sandbox that the host gets"),
        ("--reach-host", "PORTS", "PORT[:SANDBOXPORT][/udp]: a port of the host's loopback, inside"),
    ):
        add(flag, action="append", metavar=shape, help=what)
    add("--proxy", metavar="URL", help="a proxy on the host's loopback; nothing else is reachable then")


def given_flags(options: Namespace) -> list[str]:
    """Names of the policy flags that were given."""
    parser = ArgumentParser(add_help=False)
    add_policy_flags(parser)
    defaults = vars(parser.parse_args([]))
    given = (name for name, default in defaults.items() if getattr(options, name) != default)
    return [f"--{name.replace('_', '-')}" for name in given]


def request_from_flags(options: Namespace) -> SandboxRequest:
    """What the flags and the command after ``--`` ask for.

    Raises `ConfigError` with every malformed flag at once; problems name the flag.
    """
    return policy_from_flags(options).request(command_from_flags(options))


def policy_from_flags(options: Namespace) -> Policy:
    """What the flags ask for, whatever the command. Raises `ConfigError`."""
    from mxc_ops.policy_builder import Policy

    given: dict[str, Any] = {
        "read_only": options.ro,
        "read_write": options.rw,
        "denied": options.deny,
        "network": _network(options),
        "optional": options.optional,
        "env": _environment(options),
        "limits": _limits(options),
        "timeout_s": options.timeout,
        "grace_s": options.grace,
        "containment": options.backend,
        "vm": machine_from_flags(options),
        "hyperlight": hyperlight_from_flags(options),
        "wslc": container_from_flags(options),
        "system": _system(options),
        "seccomp": options.seccomp,
        "cwd": options.cwd,
        "tty": options.tty or None,
        "stdin": Stdin(StdinMode(options.stdin)) if options.stdin else None,
        "user": options.user,
        "group": options.group,
    }
    return Policy(**{name: value for name, value in given.items() if value is not None})


def name_flags(error: MxcError, options: Namespace) -> MxcError:
    """The same error, with the flags instead of the arguments of `Policy` and the fields of documents."""
    secrets = {
        _variable(name): flag
        for flag, pairs in (("--env-file", options.env_file), ("--env-fd", options.env_fd))
        for name, _source in pairs or ()
    }
    problems = [
        Problem(
            problem.code,
            secrets.get(problem.path) or _flag(problem.path),
            problem.message,
            expected=_in_flags(problem.expected),
            fix=_in_flags(problem.fix),
        )
        for problem in error.problems
    ]
    return type(error)(problems, retryable=error.retryable)


def _in_flags(text: str) -> str:
    for field, flag in _FIELDS.items():
        text = text.replace(field, flag)
    return text


def _variable(name: str) -> str:
    """Where errors place the variable `name`."""
    return f"env[{name!r}]"


def _flag(path: str) -> str:
    argument = _argument(path).partition("[")[0]
    if argument in _FLAGS:
        return _FLAGS[argument]
    name = argument.removeprefix("limits.")
    return f"--{name.replace('_', '-')}" if name.isidentifier() else path


def _argument(path: str) -> str:
    """Where a backend speaks of the document: the argument of `Policy` that says the same."""
    from mxc_ops.policy.features import LIMIT_FIELDS

    section, _, field = path.rpartition("/")
    if section in ("limits", "/mxcOps/limits") and field in LIMIT_FIELDS:
        return f"limits.{LIMIT_FIELDS[field]}"
    if section == "/mxcOps/vm" and field in FIELDS:
        return f"vm.{FIELDS[field]}"
    return path


def _network(options: Namespace) -> NetworkPolicy | None:
    """None when no flag speaks of it."""
    said: dict[str, Any] = {
        name.partition(".")[2]: getattr(options, flag[2:].replace("-", "_"))
        for name, flag in _NETWORK_FLAGS.items()
        if flag != "--net"
    }
    given = {name: value for name, value in said.items() if value is not None}
    if not given and options.net is None:
        return None
    from mxc_ops.policy.network_builder import network

    return network(default="allow" if options.net == "all" else "deny", **given)


def _environment(options: Namespace) -> dict[str, str | SecretSource] | None:
    if not (options.env or options.env_file or options.env_fd):
        return None
    from mxc_ops.policy.environment import DEFAULT_ENVIRONMENT

    of_image = options.backend in OF_CONTAINER_IMAGES
    entries: dict[str, str | SecretSource] = {} if of_image else dict(DEFAULT_ENVIRONMENT)
    entries.update(options.env or ())
    entries.update((name, SecretSource(file=path)) for name, path in options.env_file or ())
    entries.update((name, SecretSource(fd=int(number))) for name, number in options.env_fd or ())
    return entries


def _limits(options: Namespace) -> Limits | None:
    from mxc_ops.policy.features import LIMIT_FIELDS

    asked = {_LIMIT_FIELDS.get(name, name): getattr(options, name) for name in _LIMITS}
    names = (name for name, field in LIMIT_FIELDS.items() if asked[field] is not None)
    return Limits(**asked, best_effort=frozenset(names) if options.best_effort else frozenset())


def _system(options: Namespace) -> System | None:
    if not (options.distribution or options.release):
        return None
    from backends.virtual_machine import System

    return System(options.distribution or "", (options.release,) if options.release else ())


def _pair(shape: str) -> Callable[[str], tuple[str, str]]:
    def split(text: str) -> tuple[str, str]:
        name, equals, value = text.partition("=")
        if not (name and equals) or (shape.endswith("FD") and not value.isdecimal()):
            raise ArgumentTypeError(f"expected {shape}")
        return name, value

    return split
