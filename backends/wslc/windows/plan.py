"""From a request and a Windows host's facts to the calls that make its WSL container (pure).

Nothing of this needs Windows: the same request and facts give the same plan anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backends.base import Environment, ObjectKind, SandboxRequest, StdinMode, Timeout
from backends.errors import BackendUnavailable, PolicyRefused, Problem
from backends.features import Feature
from backends.frozen import frozen
from backends.plan_parts import timeout_as_dict
from backends.wslc.needs import NEEDS
from backends.wslc.windows import checks
from backends.wslc.windows.facts import WindowsFacts
from backends.wslc.windows.image import PlannedImage, plan_image
from backends.wslc.windows.paths import WindowsPath, read_path, shown
from backends.wslc.windows.steps import (
    KEEP_ALIVE,
    OUTPUT_CAP,
    Phase,
    Port,
    Step,
    command_of,
    container_steps,
    ending_steps,
    exec_steps,
    first_process_steps,
    process_steps,
    session_steps,
    start_steps,
    stop_steps,
)
from backends.wslc.windows.volumes import Volume, Volumes, look_up, plan_volumes
from backends.wslc_settings import WslcSettings

__all__ = ["LEAST_WSL", "WindowsPlan", "plan_windows", "plan_windows_exec"]

LEAST_WSL: str = next(need.data["version"] for need in NEEDS if need.identifier == "wslc.wsl")
_NETWORK = "/network/egress/default"


@frozen
class WindowsPlan:
    """All that a launch would do, as data: `steps` in their order, each with its phase.

    `kept`: whether the container waits for commands, instead of running one. `environment` has the values,
    which only the launch may see.
    """

    containment: str
    kept: bool
    image: PlannedImage
    storage: str
    settings: WslcSettings
    args: tuple[str, ...]
    cwd: str | None
    environment: Environment
    stdin: StdinMode
    volumes: tuple[Volume, ...]
    network: bool
    ports: tuple[Port, ...]
    timeout: Timeout
    steps: tuple[Step, ...]
    enforced: tuple[tuple[str, str], ...]
    decisions: tuple[str, ...]
    warnings: tuple[str, ...]
    pointers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"WindowsPlan({self.as_dict()!r})"  # without environment values: they may end up in a log

    def as_dict(self) -> dict[str, object]:
        """JSON-safe; environment values are left out, for a plan may be logged."""
        image, settings = self.image, self.settings
        entries = (*self.environment.entries, *self.environment.secrets)
        return {
            "backend": self.containment,
            "driver": "windows",
            "tool": {"library": "wslcsdk.dll", "leastVersion": LEAST_WSL},
            "kept": self.kept,
            "image": {
                "name": image.name,
                "archive": str(image.archive) if image.archive else None,
                "setup": list(image.setup),
            },
            "session": {
                "storage": self.storage,
                "cpus": settings.cpus,
                "memoryMb": settings.memory_mib,
                "gpu": settings.gpu,
            },
            "argv": list(self.args),
            "cwd": self.cwd,
            "environment": [name for name, _ in entries],
            "stdin": self.stdin.value,
            "outputCapBytes": OUTPUT_CAP,
            "volumes": [volume.as_dict() | {"pointer": volume.pointer} for volume in self.volumes],
            "network": {
                "mode": "bridged" if self.network else "none",
                "ports": [port.as_dict() | {"pointer": port.pointer} for port in self.ports],
            },
            "limits": [],
            "timeout": timeout_as_dict(self.timeout),
            "steps": [step.as_dict() for step in self.steps],
            "enforced": dict(self.enforced),
            "decisions": list(self.decisions),
            "warnings": list(self.warnings),
        }


def plan_windows(request: SandboxRequest, facts: WindowsFacts, *, kept: bool = False) -> WindowsPlan:
    """Lay out one run, or with `kept` a container that is provisioned, started, used, stopped and removed.

    Of a kept container's command, if the request has one, the steps are those of one ``exec``; see
    `plan_windows_exec` for more of them.

    Raises `PolicyRefused` with everything that Windows' tool cannot hold, `BackendUnavailable` where it is
    too old for any of this.
    """
    parts = _parts(request, facts)
    settings, image, volumes = parts.settings, parts.image, parts.volumes
    not_deleted = not kept and any(asked.feature is Feature.KEEP_CONTAINER for asked in request.asked)
    return WindowsPlan(
        containment=request.containment,
        kept=kept,
        image=image,
        storage=parts.storage,
        settings=settings,
        args=command_of(request) if _has_command(request) else (),
        cwd=request.cwd,
        environment=request.environment,
        stdin=request.stdin.mode,
        volumes=volumes.volumes,
        network=request.network.egress_allowed,
        ports=parts.ports,
        timeout=request.timeout,
        steps=tuple(_steps(request, parts, kept=kept, delete=not not_deleted)),
        enforced=tuple(_enforced(request, parts)),
        decisions=(*image.decisions, *volumes.decisions, *_decisions(request, kept, not_deleted)),
        warnings=(
            *checks.warnings(request, settings, parts.section, _NETWORK),
            *_archive_warnings(image, volumes),
        ),
        pointers=request.pointers,
    )


def plan_windows_exec(request: SandboxRequest) -> tuple[Step, ...]:
    """The calls of one command in a container that was started. Raises `PolicyRefused`."""
    if problems := list(checks.process_problems(request)):
        raise PolicyRefused(problems)
    return tuple(exec_steps(request))


@frozen
class _Parts:
    """What a request comes down to on this host. `section` is where the document's `wslc` section is."""

    settings: WslcSettings
    section: str
    storage: str
    image: PlannedImage
    volumes: Volumes
    ports: tuple[Port, ...]


def _parts(request: SandboxRequest, facts: WindowsFacts) -> _Parts:
    """Raises what `plan_windows` raises."""
    settings = request.wslc or WslcSettings()
    section = request.pointers.get("wslc", "/wslc")
    ports = checks.planned_ports(request.network, settings, section)
    storage = _storage(settings, facts, f"{section}/storagePath")
    place = storage if isinstance(storage, WindowsPath) else None
    volumes = plan_volumes(request.grants, facts, place)
    image = plan_image(settings, facts, str(storage), section)
    problems = [
        *(one for one in (storage, image) if isinstance(one, Problem)),
        *checks.settings_problems(settings, section),
        *checks.process_problems(request),
        *checks.network_problems(request.network, ports, _NETWORK),
        *volumes.problems,
    ]
    if problems or isinstance(image, Problem):
        raise PolicyRefused(problems)
    _check_version(facts)
    return _Parts(settings, section, str(storage), image, volumes, ports)


def _storage(settings: WslcSettings, facts: WindowsFacts, pointer: str) -> WindowsPath | Problem:
    if not settings.storage:
        return read_path(facts.storage, pointer)
    found = look_up(settings.storage, pointer, facts)
    if isinstance(found, Problem):
        return found
    path, fact = found
    if fact.kind not in (None, ObjectKind.DIRECTORY):
        message = f"{shown(settings.storage)} is no directory, and the disk of a session lies in one"
        return Problem("storage_not_directory", pointer, message, expected="a directory")
    return path


def _check_version(facts: WindowsFacts) -> None:
    least = [int(part) for part in LEAST_WSL.split(".")]
    try:
        found = [int(part) for part in facts.wsl_version.split(".")]
    except ValueError:
        found = []
    if found < least:
        said = f"it is {shown(facts.wsl_version)}" if facts.wsl_version else "there is none"
        message = f"WSL containers need WSL {LEAST_WSL} on the host, and {said}"
        raise BackendUnavailable(Problem("wsl_too_old", "", message, fix="wsl --update --pre-release"))


def _has_command(request: SandboxRequest) -> bool:
    return request.shell is not None or bool(request.args)


def _steps(request: SandboxRequest, parts: _Parts, *, kept: bool, delete: bool) -> Iterator[Step]:
    settings, bridged = parts.settings, request.network.egress_allowed
    yield from session_steps(parts.storage, settings.cpus, settings.memory_mib, gpu=settings.gpu)
    yield from parts.image.steps
    yield from _first_process(request, kept=kept)
    yield from container_steps(
        parts.image.name, parts.volumes.volumes, parts.ports, network=bridged, gpu=settings.gpu
    )
    yield from start_steps(attached=not kept)
    yield from _exec(request, kept=kept)
    yield from stop_steps()
    yield from ending_steps(delete=delete)


def _first_process(request: SandboxRequest, *, kept: bool) -> Iterator[Step]:
    if kept:
        return process_steps(Phase.PROVISION, KEEP_ALIVE, None, Environment())
    return process_steps(Phase.PROVISION, command_of(request), request.cwd, request.environment)


def _exec(request: SandboxRequest, *, kept: bool) -> Iterator[Step]:
    if not kept:
        yield from first_process_steps(request.timeout)
    elif _has_command(request):
        yield from exec_steps(request)


def _enforced(request: SandboxRequest, parts: _Parts) -> Iterator[tuple[str, str]]:
    archive = parts.image.archive
    yield "isolation", "a container alone in a virtual machine of its own (Hyper-V)"
    yield "filesystem", "only granted directories are shared with the machine"
    if any(volume.read_only for volume in parts.volumes.volumes):
        yield "filesystem.readonlyPaths", "shared read-only, by the host"
    yield (
        "image",
        "from an archive of the host" if archive else "from the session's cache, never pulled",
    )
    yield "network", "bridged, behind the machine's NAT" if request.network.egress_allowed else "none at all"
    for port in parts.ports:
        where = f"{port.host_address}:{port.host_port}"
        yield f"port mapping ({where})", f"to the container's {port.container_port}, by WSL's relay"
    yield "privileges", "the container is never privileged; the engine's own capabilities and seccomp profile"
    yield "identity", "the image's own user, in the machine"
    yield "ui", "the container has no display"


def _decisions(request: SandboxRequest, kept: bool, not_deleted: bool) -> Iterator[str]:
    if kept:
        yield "one process must hold the session from provision to deprovision: its end is the machine's"
        if request.timeout.after_ms:
            yield "a command whose time is up is killed; what it started in the container lives until stop"
    elif not_deleted:
        yield "the container is kept after the run, on the session's disk: lifecycle.destroyOnExit is false"
    else:
        yield "the container is deleted after the run"


def _archive_warnings(image: PlannedImage, volumes: Volumes) -> Iterator[str]:
    if image.archive is None:
        return
    for volume in volumes.volumes:
        tree = read_path(volume.host, volume.pointer)
        if isinstance(tree, WindowsPath) and not volume.read_only and image.archive.within(tree):
            yield (
                f"{volume.pointer}: {shown(volume.host)} holds the archive {shown(str(image.archive))}, which"
                " the sandbox may replace: later runs then get another image"
            )
