"""Why a command could not be started in a guest, in the user's own terms (pure)."""

from __future__ import annotations

import errno
import os

from backends.agent.errors import GuestRefused
from backends.errors import LaunchFailed, MxcError, PolicyRefused, Problem
from backends.guest_files.plan import GuestPut
from backends.inside.agent_protocol import Step
from backends.virtual_machine import CommandKind
from backends.vm.container import PlannedContainer
from backends.vm.plan import VmPlan

__all__ = ["explain_container", "explain_full", "explain_refusal"]


def explain_refusal(plan: VmPlan, refusal: GuestRefused) -> MxcError:
    """Turn the agent's refusal of a command into an error that names the document's field."""
    why = os.strerror(refusal.errno)
    if refusal.step is Step.EXEC:
        return _not_executable(plan, refusal.errno)
    if refusal.step is Step.CWD:
        cwd = plan.command.cwd
        return PolicyRefused(
            Problem(
                "cwd_unusable",
                plan.pointers.get("cwd", "/process/cwd"),
                f"the working directory {cwd!r} cannot be entered inside the virtual machine: {why}",
                expected="a directory of the image, or one that the policy makes visible",
                fix=f"grant it: add {cwd!r} to filesystem.readonlyPaths or readwritePaths",
            )
        )
    if refusal.step is Step.ZYGOTE and plan.denied:
        return PolicyRefused(
            Problem(
                "interpreter_denied",
                plan.denied[0] if len(plan.denied) == 1 else "",  # of several, nothing tells which it is
                f"the interpreter {refusal.subject!a} that is to run the command's source is denied",
                expected="denied paths that leave the image's interpreter visible",
                fix="mxcOps.vm.command: shell, if the command is not source for it",
            )
        )
    return LaunchFailed(Problem(f"guest_{refusal.step.name.lower()}", "", str(refusal)))


def explain_container(container: PlannedContainer, refusal: GuestRefused) -> LaunchFailed:
    """The failure to start a container, for which its image is to blame, or the machine's memory."""
    message = f"no container can be made of {container.image.reference!r}: {refusal}"
    fix = f"mxc-ops image verify {container.image.key}"
    return LaunchFailed(Problem("container_not_started", "", message, fix=fix))


def explain_full(plan: VmPlan, step: GuestPut, failure: LaunchFailed) -> MxcError:
    """The failure to put files into the machine, or what it means when that is full."""
    refusal = failure.__cause__
    if step.grant is None or not isinstance(refusal, GuestRefused) or refusal.errno != errno.ENOSPC:
        return failure
    grant, memory_mib = plan.files.writable[step.grant], plan.template.clone.memory_mib
    return PolicyRefused(
        Problem(
            "grant_does_not_fit",
            grant.pointer,
            f"{grant.path!r} does not fit into the virtual machine, where copies of read-write grants may"
            f" take half of its {memory_mib} MiB of memory",
            expected="less in all of them together, or a larger machine",
            fix=f"mxcOps.vm.memoryMib: {2 * memory_mib}",
        )
    )


def _not_executable(plan: VmPlan, number: int) -> LaunchFailed:
    missing = number == errno.ENOENT
    building = f"mxc-ops image build {plan.template.image.name} --package NAME"
    if plan.container is not None:
        building = "mxc-ops image import ARCHIVE --name REFERENCE"
    field = "args" if plan.command_kind is CommandKind.ARGS else "shell"
    return LaunchFailed(
        Problem(
            "program_not_found" if missing else "program_not_executable",
            plan.pointers.get(field, "/mxcOps/args"),
            f"{plan.command.args[0]!r} cannot be executed inside the virtual machine: {os.strerror(number)}",
            expected="a shorter command or environment"
            if number == errno.E2BIG
            else "a program of the image, or one that the policy makes visible",
            fix=building if missing else "",
        )
    )
