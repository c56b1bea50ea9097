"""What Windows' own WSL containers cannot hold of a request, each refused by name (pure).

The tool knows two networks, none and a bridged one, and of a process its arguments, environment and working
directory (policy-semantics.md §3.5, §5; upstream-gaps.md N14). Whatever tightens a policy beyond that would
be a promise that nobody keeps.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.base import SandboxRequest
from backends.errors import Problem
from backends.features import Feature
from backends.frozen import field_names
from backends.network.policy import Direction, NetworkPolicy, PortMapping, Protocol
from backends.wslc.windows.capabilities import CAPABILITIES
from backends.wslc.windows.paths import WindowsPath, read_path, shown
from backends.wslc.windows.steps import SIGNALS, Port
from backends.wslc.windows.volumes import LINUX_FIX
from backends.wslc_settings import WslcSettings

__all__ = ["network_problems", "planned_ports", "process_problems", "settings_problems", "warnings"]

_LOOPBACK = "127.0.0.1"


def process_problems(request: SandboxRequest) -> Iterator[Problem]:
    """Of a command, whether it is a container's first process or one of many."""
    yield from _working_directory(request)
    timeout, pointers = request.timeout, request.pointers
    if timeout.after_ms and timeout.grace_ms and timeout.signal not in SIGNALS:
        message = f"the API of WSL containers cannot send SIG{timeout.signal}"
        pointer = pointers.get("signal", "/mxcOps/timeout/signal")
        yield Problem("signal_not_supported", pointer, message, expected=", ".join(SIGNALS))
    for field in ("user", "group"):
        if getattr(request, field) is not None:
            message = f"the API of WSL containers runs a process as the image's own user; it takes no {field}"
            pointer = pointers.get(field, f"/mxcOps/{field}")
            fix = f"build the image with that USER and remove the field, or {LINUX_FIX}"
            yield Problem("user_not_supported", pointer, message, fix=fix)
    if request.seccomp == "strict":
        message = "the API of WSL containers takes no seccomp profile, so that 'strict' cannot be held"
        pointer = pointers.get("seccomp", "/mxcOps/seccomp")
        yield Problem("seccomp_not_supported", pointer, message, fix=LINUX_FIX)
    for field in field_names(type(request.limits)):
        name = _document_name(field)
        asked = field != "best_effort" and getattr(request.limits, field) is not None
        if asked and name not in CAPABILITIES.limits and name not in request.limits.best_effort:
            message = f"the API of WSL containers has no mechanism that holds the limit {name}"
            pointer = f"{pointers.get('limits', '/mxcOps/limits')}/{name}"
            fix = f"wslc.cpuCount and wslc.memoryMb bound the whole machine; or {LINUX_FIX}"
            yield Problem("limit_not_supported", pointer, message, fix=fix)


def _document_name(field: str) -> str:
    first, *more = field.split("_")
    return first + "".join(part.capitalize() for part in more)


def _working_directory(request: SandboxRequest) -> Iterator[Problem]:
    cwd, pointer = request.cwd, request.pointers.get("cwd", "/process/cwd")
    if cwd is None or cwd.startswith("/"):
        return
    path = read_path(cwd, pointer)
    fix = (
        f"write {shown(path.inside)}" if isinstance(path, WindowsPath) else "write its name in the container"
    )
    message = f"the working directory {shown(cwd)} is not absolute in the container"
    yield Problem("relative_cwd", pointer, message, expected="a path that begins with '/'", fix=fix)


def settings_problems(settings: WslcSettings, pointer: str) -> Iterator[Problem]:
    """`pointer` is where the document's `wslc` section is."""
    if settings.target_os != "linux":
        message = f"there are no WSL containers of {shown(settings.target_os)}"
        yield Problem("target_os", f"{pointer}/targetOs", message, expected="linux")
    for field, value in (("cpuCount", settings.cpus), ("memoryMb", settings.memory_mib)):
        if value is not None and not 1 <= value < 2**32:
            message = f"{value} is out of range"
            yield Problem("out_of_range", f"{pointer}/{field}", message, expected="1 to 4294967295")


def network_problems(policy: NetworkPolicy, ports: tuple[Port, ...], pointer: str) -> Iterator[Problem]:
    """`pointer` is where the document says whether a network is wanted at all."""
    either = "set network.egress.default to allow or deny, without rules"
    for rule in (*policy.deny, *policy.allow, *policy.ceiling.allow):
        message = (
            "on Windows the network of a WSL container is none or all of it: there are no rules by address"
        )
        yield Problem("network_rule_not_supported", rule.pointer, message, fix=f"{either}, or {LINUX_FIX}")
    for rule in (*policy.names, *policy.denied_names, *policy.ceiling.names):
        message = "on Windows the network of a WSL container is none or all of it: there are no rules by name"
        yield Problem("network_rule_not_supported", rule.pointer, message, fix=f"{either}, or {LINUX_FIX}")
    if policy.proxy is not None:
        message = CAPABILITIES.reasons[Feature.NETWORK_PROXY]
        fix = f"remove it and name a proxy in process.env, which programs may ignore; or {LINUX_FIX}"
        yield Problem("proxy_not_supported", policy.proxy.pointer, message, fix=fix)
    for mapping in policy.mappings:
        if (why := _unmapped(mapping)) is not None:
            yield Problem("port_mapping_not_supported", mapping.pointer, why, fix=LINUX_FIX)
    taken: dict[tuple[str, int], str] = {}
    for port in ports:
        if not policy.egress_allowed:
            message = (
                f"port {port.host_port} is mapped, and on Windows a container without a network has none"
            )
            fix = f"set {pointer} to allow, which opens the whole network, or {LINUX_FIX}"
            yield Problem("port_without_network", port.pointer, message, fix=fix)
        first = taken.setdefault((port.host_address, port.host_port), port.pointer)
        if first != port.pointer:
            message = f"the host's port {port.host_port} is taken by {first}"
            fix = "give it a port of its own, or remove one of the two"
            yield Problem("duplicate_value", port.pointer, message, fix=fix)


def _unmapped(mapping: PortMapping) -> str | None:
    if mapping.direction is Direction.TO_HOST:
        return "no port of a WSL container's leads to the host on Windows"
    if mapping.protocol is not Protocol.TCP:
        return "the API of WSL containers maps TCP ports only"
    return None


def planned_ports(policy: NetworkPolicy, settings: WslcSettings, pointer: str) -> tuple[Port, ...]:
    """Each at the one address that is meant: left to itself the tool would listen at all of them."""
    own = [
        Port(_LOOPBACK, port.host_port, port.container_port, f"{pointer}/portMappings/{index}")
        for index, port in enumerate(settings.ports)
    ]
    mapped = [
        Port(mapping.host_address, mapping.host_port, mapping.sandbox_port, mapping.pointer)
        for mapping in policy.mappings
        if _unmapped(mapping) is None
    ]
    return (*own, *mapped)


def warnings(request: SandboxRequest, settings: WslcSettings, pointer: str, network: str) -> Iterator[str]:
    """What is asked for and never given, and what is given and more than one may think."""
    if settings.shared_vm:
        yield "/mxcOps/wslc/sharedVm: on Windows every sandbox has a machine of its own; nothing is shared"
    if request.seccomp == "debug":
        place = request.pointers.get("seccomp", "/mxcOps/seccomp")
        yield f"{place}: on Windows there is the container engine's own profile alone: no 'debug'"
    if settings.gpu:
        yield f"{pointer}/gpu: the sandbox talks to the graphics driver of the host"
    if request.network.egress_allowed:
        yield (
            f"{network}: allow: on Windows the host's own addresses and its networks are reached like all"
            " others; only the virtual machines of mxc-ops, on Linux, close them"
        )
