"""The calls of Windows' WSL container API, as data, by the phase of a sandbox's life in which each is made.

Source: the C reference of ``wslcsdk.h`` (wsl.dev/api-reference/c, as of WSL 2.9.3) for the calls and their
arguments, and backends.md §5 for which of them make a run, and in which order.

Why these calls are the plan, and no command line. ``wslc.exe`` runs a container in the one machine, with
the processors, memory and storage, that all containers of the user share. MXC's ``wxc-exec.exe`` publishes
ports on every address of the host (upstream-gaps.md N14). Each would hold less than a policy says; the calls
give every sandbox a machine of its own, and a port the address that is meant. Environment values, which
others can read in a command line, are in no argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum

from backends.base import Environment, SandboxRequest, Timeout
from backends.frozen import frozen
from backends.wslc.windows.volumes import Volume

__all__ = [
    "KEEP_ALIVE",
    "OUTPUT_CAP",
    "SHELL",
    "SIGNALS",
    "Phase",
    "Port",
    "Step",
    "When",
    "command_of",
    "container_steps",
    "ending_steps",
    "exec_steps",
    "first_process_steps",
    "process_steps",
    "session_steps",
    "start_steps",
    "stop_steps",
]

SHELL = ("/bin/sh", "-c")
KEEP_ALIVE = (*SHELL, "while true; do sleep 86400; done")
OUTPUT_CAP = 8 * 1024 * 1024
"""Bytes of each stream that are kept, as upstream keeps them (backends.md §5)."""

SIGNALS = {name: f"WSLC_SIGNAL_SIG{name}" for name in ("HUP", "INT", "QUIT", "KILL", "TERM")}


class Phase(Enum):
    """lifecycle.md §1. A run goes through all of them; its command is the container's first process."""

    PROVISION = "provision"
    START = "start"
    EXEC = "exec"
    STOP = "stop"
    DEPROVISION = "deprovision"


class When(Enum):
    ALWAYS = ""
    NOT_LISTED = "the image is not listed yet"
    EXPIRED = "the time is up"
    GRACE_OVER = "the grace after the signal is over"
    RUNNING = "it still runs"


@frozen
class Step:
    """One call. `arguments` are JSON-safe; words that begin with ``@`` are filled in at launch."""

    phase: Phase
    call: str
    arguments: Mapping[str, object]
    when: When = When.ALWAYS

    def as_dict(self) -> dict[str, object]:
        condition = {"when": self.when.value} if self.when is not When.ALWAYS else {}
        return {"phase": self.phase.value, "call": self.call, "arguments": dict(self.arguments), **condition}


@frozen
class Port:
    """A TCP port of the host, at one address of it, that leads to one of the container."""

    host_address: str
    host_port: int
    container_port: int
    pointer: str

    def as_dict(self) -> dict[str, object]:
        return {
            "windowsAddress": self.host_address,
            "windowsPort": self.host_port,
            "containerPort": self.container_port,
            "protocol": "WSLC_PORT_PROTOCOL_TCP",
        }


def session_steps(storage: str, cpus: int | None, memory_mib: int | None, *, gpu: bool) -> Iterator[Step]:
    """A machine of its own. What is not asked for is left to the API: 2 processors, 2000 MB."""

    def step(call: str, **arguments: object) -> Step:
        return Step(Phase.PROVISION, call, arguments)

    yield step("WslcGetMissingComponents", expect="WSLC_COMPONENT_FLAG_NONE")
    yield step("WslcInitSessionSettings", name="mxc-ops-@id", storagePath=storage)
    if cpus is not None:
        yield step("WslcSetSessionSettingsCpuCount", cpuCount=cpus)
    if memory_mib is not None:
        yield step("WslcSetSessionSettingsMemory", memoryMB=memory_mib)
    if gpu:
        yield step("WslcSetSessionSettingsFeatureFlags", flags=["WSLC_SESSION_FEATURE_FLAG_ENABLE_GPU"])
    yield step("WslcCreateSession")


def container_steps(
    image: str, volumes: tuple[Volume, ...], ports: tuple[Port, ...], *, network: bool, gpu: bool
) -> Iterator[Step]:
    """The container, around the settings of its first process. It is privileged under no circumstances."""

    def step(call: str, **arguments: object) -> Step:
        return Step(Phase.PROVISION, call, arguments)

    mode = "BRIDGED" if network else "NONE"
    yield step("WslcInitContainerSettings", imageName=image)
    yield step("WslcSetContainerSettingsInitProcess")
    yield step(
        "WslcSetContainerSettingsNetworkingMode", networkingMode=f"WSLC_CONTAINER_NETWORKING_MODE_{mode}"
    )
    yield step("WslcSetContainerSettingsFlags", flags=["WSLC_CONTAINER_FLAG_ENABLE_GPU"] if gpu else [])
    if ports:
        yield step("WslcSetContainerSettingsPortMappings", portMappings=[port.as_dict() for port in ports])
    if volumes:
        yield step("WslcSetContainerSettingsVolumes", volumes=[volume.as_dict() for volume in volumes])
    yield step("WslcCreateContainer")


def command_of(request: SandboxRequest) -> tuple[str, ...]:
    return request.args or (*SHELL, request.shell or "")


def process_steps(
    phase: Phase, args: tuple[str, ...], cwd: str | None, environment: Environment
) -> Iterator[Step]:
    """The settings of one process. Without entries it has the image's own environment, without `cwd` its
    directory; the entries' values are known to the launch alone."""
    names = [name for name, _ in (*environment.entries, *environment.secrets)]
    yield Step(phase, "WslcInitProcessSettings", {})
    yield Step(phase, "WslcSetProcessSettingsCmdLine", {"argv": list(args)})
    if cwd is not None:
        yield Step(phase, "WslcSetProcessSettingsWorkingDirectory", {"workingDirectory": cwd})
    if names:
        yield Step(phase, "WslcSetProcessSettingsEnvVariables", {"names": names})


def start_steps(*, attached: bool) -> Iterator[Step]:
    """`attached`: the first process has streams that somebody will read."""
    flags = ["WSLC_CONTAINER_START_FLAG_ATTACH"] if attached else []
    yield Step(Phase.START, "WslcStartContainer", {"flags": flags})


def first_process_steps(timeout: Timeout) -> Iterator[Step]:
    """Following a container's first process to its end; its end is the container's."""
    yield Step(Phase.EXEC, "WslcGetContainerInitProcess", {})
    yield from _followed(timeout)
    if timeout.after_ms:
        when = When.GRACE_OVER if timeout.grace_ms else When.EXPIRED
        arguments = {"signal": SIGNALS["KILL"], "timeoutSeconds": 0}
        yield Step(Phase.EXEC, "WslcStopContainer", arguments, when)
    yield Step(Phase.EXEC, "WslcGetProcessExitCode", {})


def exec_steps(request: SandboxRequest) -> Iterator[Step]:
    """One command in a kept container; when its time is up, the process dies and not the container."""
    timeout = request.timeout
    yield from process_steps(Phase.EXEC, command_of(request), request.cwd, request.environment)
    yield Step(Phase.EXEC, "WslcCreateContainerProcess", {})
    yield from _followed(timeout)
    if timeout.after_ms:
        when = When.GRACE_OVER if timeout.grace_ms else When.EXPIRED
        yield Step(Phase.EXEC, "WslcSignalProcess", {"signal": SIGNALS["KILL"]}, when)
    yield Step(Phase.EXEC, "WslcGetProcessExitCode", {})
    yield Step(Phase.EXEC, "WslcReleaseProcess", {})


def _followed(timeout: Timeout) -> Iterator[Step]:
    for stream in ("STDIN", "STDOUT", "STDERR"):
        arguments = {"ioHandle": f"WSLC_PROCESS_IO_HANDLE_{stream}"}
        yield Step(Phase.EXEC, "WslcGetProcessIOHandle", arguments)
    yield Step(Phase.EXEC, "WslcGetProcessExitEvent", {"waitMs": timeout.after_ms or None})
    if timeout.after_ms and timeout.grace_ms:
        arguments = {"signal": SIGNALS[timeout.signal], "graceMs": timeout.grace_ms}
        yield Step(Phase.EXEC, "WslcSignalProcess", arguments, When.EXPIRED)


def stop_steps() -> Iterator[Step]:
    arguments = {"signal": SIGNALS["KILL"], "timeoutSeconds": 0}
    yield Step(Phase.STOP, "WslcStopContainer", arguments, When.RUNNING)


def ending_steps(*, delete: bool) -> Iterator[Step]:
    if delete:
        flags = {"flags": ["WSLC_DELETE_CONTAINER_FLAG_FORCE"]}
        yield Step(Phase.DEPROVISION, "WslcDeleteContainer", flags)
    for call in ("WslcReleaseContainer", "WslcTerminateSession", "WslcReleaseSession"):
        yield Step(Phase.DEPROVISION, call, {})
