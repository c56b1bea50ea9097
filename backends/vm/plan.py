"""From a request and the host's facts to everything that one run in a virtual machine does (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from backends.base import Access, Effect, FilesystemView, SandboxRequest, Timeout
from backends.container_image import ContainerImage
from backends.errors import ConfigError, PolicyRefused, Problem
from backends.frozen import frozen, replace
from backends.guest_etc import INSIDE_ID
from backends.guest_files.plan import FilesPlan, plan_files
from backends.hyperlight_settings import HyperlightSettings
from backends.inside.agent_protocol import GuestCommand
from backends.launched.identity import Identity, choose_identity
from backends.network import for_plans
from backends.plan_parts import limits_as_list, timeout_as_dict
from backends.qemu.confinement import Confinement
from backends.qemu.machine import Part, arguments
from backends.qemu.template_plan import GRANTS, TemplatePlan, plan_template
from backends.virtual_machine import LANGUAGES, CommandKind, Image, VirtualMachine, argument_vector
from backends.vm.container import (
    PlannedContainer,
    container_disks,
    plan_container,
    with_image_environment,
)
from backends.vm.facts import VmFacts
from backends.vm.guest_limits import GuestLimits, plan_guest_limits, plan_machine_limits
from backends.vm.heeded import unheeded

if TYPE_CHECKING:
    from backends.network.plan import NetworkPlan

__all__ = ["VmPlan", "make_plan"]

_LEAST_MEMORY_MIB = 96


@frozen
class VmPlan:
    """All that a run does, as data. `command` lacks the secrets, which no plan may hold.

    `denied` says where the document denies paths.
    """

    containment: str
    template: TemplatePlan
    confinement: Confinement
    launcher_key: str
    files: FilesPlan
    command: GuestCommand
    command_kind: CommandKind
    secret_names: tuple[str, ...]
    limits: GuestLimits
    file_size_mib: int | None
    seccomp: str
    seccomp_hash: str
    network: NetworkPlan | None
    tty: bool
    timeout: Timeout
    enforced: tuple[tuple[str, str], ...]
    decisions: tuple[str, ...]
    warnings: tuple[str, ...]
    pointers: Mapping[str, str]
    denied: tuple[str, ...]
    hyperlight: HyperlightSettings | None = None
    container: PlannedContainer | None = None

    def __repr__(self) -> str:
        return f"VmPlan({self.as_dict()!r})"  # without environment values: they may end up in a log

    def as_dict(self) -> dict[str, object]:
        """JSON-safe; environment values are left out, for a plan may be logged."""
        template, clone = self.template, replace(self.template.clone, tap=self.network is not None)
        names = [part.value for part in (Part.MONITOR, Part.AGENT, Part.CONSOLE, Part.MEMORY)]
        names += [Part.NETWORK.value] if clone.tap else []
        numbers = {
            name: place for place, name in enumerate([*names, *(d.name for d in clone.disks)], start=3)
        }
        hyperlight = self.hyperlight
        return {
            "backend": self.containment,
            **({} if hyperlight is None else {"driver": "qemu", "runtime": hyperlight.runtime.value}),
            "helper": {"path": clone.qemu, "version": template.qemu_build},
            "launcher": {"path": self.confinement.launcher, "key": self.launcher_key},
            "image": {"name": template.image.name, "key": template.image.key},
            "template": template.key,
            **({} if self.container is None else {"container": self.container.as_dict()}),
            "machine": {
                "kind": clone.kind.value,
                "accelerator": clone.accelerator,
                "memoryMib": clone.memory_mib,
                "cpus": clone.cpus,
            },
            "arguments": list(arguments(clone, numbers)),
            "files": self.files.as_dict(),
            "argv": list(self.command.args),
            "command": self.command_kind.value,
            "cwd": self.command.cwd,
            "environment": [name for name, _ in self.command.env] + list(self.secret_names),
            "identity": {"kind": self.confinement.identity.kind, "uid": self.confinement.identity.uid},
            "limits": limits_as_list(self.limits.outcomes),
            "seccomp": {"profile": self.seccomp, "hash": self.seccomp_hash},
            "network": for_plans.as_dict(self.network),
            "tty": self.tty,
            "timeout": timeout_as_dict(self.timeout),
            "enforced": dict(self.enforced),
            "decisions": list(self.decisions),
            "warnings": list(self.warnings),
        }


def make_plan(request: SandboxRequest, facts: VmFacts, view: FilesystemView) -> VmPlan:
    """Lay out one run.

    Raises `PolicyRefused` for what cannot be held, `ConfigError` for a command that this image cannot run,
    `BackendUnavailable` when the host lacks the uid range that a root launch needs.
    """
    wanted = request.vm or VirtualMachine()
    image = _image(wanted)
    kind = wanted.command or (CommandKind.ARGS if request.args else CommandKind.SHELL)
    _check(request, facts, image, kind)
    memory_mib = wanted.memory_mib or image.memory_mib
    limits = plan_guest_limits(request.limits, memory_mib)
    identity = choose_identity(request, facts.caller, facts.uid_range)
    confinement = _confinement(facts, identity, memory_mib)
    template = plan_template(
        image,
        facts.qemu,
        facts.host,
        kind=facts.kind,
        accelerator=facts.accelerator,
        memory_mib=memory_mib,
        cpus=wanted.cpus or 1,
        data=container_disks(found) if (found := _container_image(request)) else (GRANTS,),
    )
    network = for_plans.plan_for(request.network, facts.network, root=facts.caller[0] == 0, routed=True)
    container = _container(request, template)
    user = (INSIDE_ID, INSIDE_ID) if container is None else container.image.user.ids
    files = plan_files(
        view,
        device=template.grants_device,
        caller=_file_user(identity, facts),
        places=facts.shown_at,
        inside=user,
    )
    return VmPlan(
        containment=request.containment,
        template=template,
        confinement=confinement,
        launcher_key=facts.launcher_key,
        files=files,
        command=_command(request, kind, limits, network, container),
        command_kind=kind,
        secret_names=tuple(name for name, _ in request.environment.secrets),
        limits=limits,
        file_size_mib=request.limits.file_size_mib,
        seccomp=request.seccomp,
        seccomp_hash=facts.seccomp.get(request.seccomp, ""),
        network=network,
        tty=request.tty,
        timeout=request.timeout,
        enforced=tuple(_enforced(request, view, confinement, facts, network)),
        decisions=view.decisions,
        warnings=(*view.warnings, *limits.warnings),
        pointers=request.pointers,
        denied=tuple(grant.pointer for grant in request.grants if grant.access is Access.DENIED),
        hyperlight=request.hyperlight,
        container=container,
    )


def _confinement(facts: VmFacts, identity: Identity, memory_mib: int) -> Confinement:
    return Confinement(
        helper=facts.helper,
        launcher=facts.launcher,
        identity=identity,
        places=facts.places,
        limits=plan_machine_limits(memory_mib, facts.cgroups),
        cgroup_parents=tuple(facts.cgroups.parents.items()),
        cgroup_version=facts.cgroups.version,
    )


def _file_user(identity: Identity, facts: VmFacts) -> tuple[int, tuple[int, ...]]:
    """(uid, groups) whose files are the workload's own: for root without a name, each grant's owner's."""
    if identity.kind == "named":
        return identity.uid, (identity.gid,)
    return facts.caller[0], facts.groups


def _image(wanted: VirtualMachine) -> Image:
    if wanted.image is None:
        message = f"the image {wanted.image_name!r} was not looked up"
        raise ConfigError(Problem("image_missing", "/mxcOps/vm/image", message))
    if not wanted.image.kernel:
        raise ConfigError(
            Problem(
                "image_without_kernel",
                "/mxcOps/vm/image",
                f"the image {wanted.image.name!r} is of containers only: nothing in it boots a machine",
                expected="an image that mxc-ops image build made, such as 'base'",
            )
        )
    return wanted.image


def _container_image(request: SandboxRequest) -> ContainerImage | None:
    if request.wslc is None:
        return None
    if request.wslc.found is None:
        message = f"the image {request.wslc.image!r} was not looked up"
        raise ConfigError(Problem("image_missing", request.pointers.get("wslc", "/wslc"), message))
    return request.wslc.found


def _container(request: SandboxRequest, template: TemplatePlan) -> PlannedContainer | None:
    image = _container_image(request)
    if image is None or request.wslc is None:
        return None
    return plan_container(image, template, request.wslc.storage)


def _check(request: SandboxRequest, facts: VmFacts, image: Image, kind: CommandKind) -> None:
    problems: list[Problem] = []
    cwd = request.cwd or "/"
    if not cwd.startswith("/"):
        problems.append(
            Problem(
                "relative_cwd",
                request.pointers.get("cwd", "/process/cwd"),
                f"the working directory {cwd!r} is not absolute",
                expected="an absolute path inside the virtual machine",
            )
        )
    if request.seccomp not in facts.seccomp:
        problems.append(
            Problem(
                "unknown_seccomp_profile",
                request.pointers.get("seccomp", "/mxcOps/seccomp"),
                f"no seccomp profile is called {request.seccomp!r}",
                expected=", ".join(facts.seccomp),
            )
        )
    if kind in LANGUAGES and image.zygote != kind.value:
        problems.append(
            Problem(
                f"image_without_{kind.value}",
                request.pointers.get("image", "/mxcOps/vm/image"),
                f"no {kind.value} waits in the image {image.name!r}, and the command is"
                f" {LANGUAGES[kind].name} source",
                expected=f"an image whose recipe says zygote = {kind.value!r}, such as {kind.value!r}",
                fix="mxcOps.vm.command: shell, if the command is a shell line",
            )
        )
    problems += unheeded(request, kind)
    memory_mib = request.vm.memory_mib if request.vm else None
    if memory_mib is not None and memory_mib < _LEAST_MEMORY_MIB:
        problems.append(
            Problem(
                "memory_too_small",
                "/mxcOps/vm/memoryMib",
                f"no image boots in {memory_mib} MiB",
                expected=f"at least {_LEAST_MEMORY_MIB}",
            )
        )
    if problems:
        raise PolicyRefused(problems)


def _command(
    request: SandboxRequest,
    kind: CommandKind,
    limits: GuestLimits,
    network: NetworkPlan | None,
    container: PlannedContainer | None,
) -> GuestCommand:
    image = None if container is None else container.image
    entries = request.environment.entries
    if image is not None:
        entries = with_image_environment(image, entries)
    return GuestCommand(
        args=argument_vector(kind, request.shell, request.args),
        env=for_plans.with_proxy(entries, network, empty_no_proxy=image is not None),
        cwd=request.cwd or (image.working_dir if image else "/"),
        user=image.user.ids if image else (INSIDE_ID, INSIDE_ID),
        rlimits=limits.rlimits,
        cgroup=limits.cgroup,
        zygote=(request.shell or "") if kind in LANGUAGES else None,
    )


def _enforced(
    request: SandboxRequest,
    view: FilesystemView,
    confinement: Confinement,
    facts: VmFacts,
    network: NetworkPlan | None,
) -> Iterator[tuple[str, str]]:
    if request.hyperlight is not None:
        yield "driver", f"qemu, with the runtime {request.hyperlight.runtime.value}: {request.hyperlight.why}"
    yield "isolation", f"a virtual machine of its own ({facts.kind.value}, {facts.accelerator})"
    if request.wslc is not None and request.wslc.found is not None:
        image = request.wslc.found
        yield (
            "container",
            f"namespaces and a root of its own in it, from {image.reference} ({image.key[:12]})",
        )
    yield "filesystem", "only what is granted is copied into the machine"
    if view.denied:
        yield "filesystem.deniedPaths", "not copied into the machine, and hidden in its image"
    if any(entry.effect is Effect.BIND_READ_WRITE for entry in view.entries):
        yield "filesystem.readwritePaths", "copied in, and copied back after a normal exit"
    yield from for_plans.how_held(network, "a network card without a way out")
    yield "ui", "the machine has no display"
    yield "system calls", f"seccomp allow-list in the guest, profile {request.seccomp}"
    yield "privileges", "no capabilities, no_new_privs, in the guest"
    yield "QEMU", "bubblewrap without files, network or privileges, and QEMU's own seccomp filter"
    yield "identity", confinement.identity.describe()
