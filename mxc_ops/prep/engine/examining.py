"""Functional probes on a host, by our own doctor.

Linux: our sources are brought to a directory of their own, run there with root's rights where these can be
had, and removed again. Windows: no Python is assumed there, so each item that the backends need is decided
from facts, as a plan decides it: that tells what is missing, and nothing is tried out.
"""

# pyright: reportUnknownMemberType=false
# pyinfra annotates hosts incompletely.

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import asdict, replace

from pyinfra.api.command import StringCommand
from pyinfra.connectors.util import CommandOutput

from backends import registry
from backends.needs import EACH_USER, Health, Probe
from mxc_ops.doctor import obstacle
from mxc_ops.prep import remote_doctor
from mxc_ops.prep.choices import Choices
from mxc_ops.prep.engine.fixes import of_probe
from mxc_ops.prep.engine.planning import Step, plan_items
from mxc_ops.prep.engine.session import Session, choices_for
from mxc_ops.prep.engine.tell import Teller, last_words
from mxc_ops.prep.items import WINDOWS, Item, items_for, needs_of, unsupported
from mxc_ops.prep.messages import Event, Request
from mxc_ops.prep.remote_doctor import Place
from mxc_ops.prep.undoing import preparing

__all__ = ["examine"]

_PATIENCE_S = 30
_ANSWER_S = 60
_RESTART = "Restart-Computer"
_PRIVILEGE = "administrator"
_CHOOSER = "whoever chooses the backends"
_PLATFORMS = {"windows": "win32", "linux": "linux"}


def examine(session: Session, request: Request, teller: Teller, *, unproven: Health = Health.FAILED) -> bool:
    """Examine a host for the backends asked for, else the inventory's, else all that mxc-ops has.

    What is lacking of the features asked for, else the inventory's, makes it fail. True when nothing failed.

    Parameters
    ----------
    unproven: what it is that something cannot be told yet: of Linux without Python, of a Windows that waits
        for a restart.

    Raises `HostFailure` when the host cannot answer, `PrepFailed` for data in the inventory that cannot be
    meant.
    """
    choices = choices_for(session.host, request, (registry.resolve_intent(None, "linux"),))
    platform = _PLATFORMS[session.facts.system]
    misplaced = {name: obstacle(name, platform) for name in choices.backends}
    found = [_misplaced(name, trouble, session) for name, trouble in misplaced.items() if trouble]
    wanted = replace(choices, backends=[name for name, trouble in misplaced.items() if not trouble])
    if wanted.backends:
        if session.facts.system == WINDOWS:
            found += _by_facts(session, wanted, unproven)
        else:
            found += [*_by_doctor(session, wanted, unproven), *_of_users(session, wanted)]
    told = [_as_told(probe, session, request) for probe in found]
    teller.tell(Event.PROBED, session.host.name, probes=told)
    return all(probe.health is not Health.FAILED for probe in found)


def _misplaced(name: str, trouble: str, session: Session) -> Probe:
    return _elsewhere(
        name,
        f"{trouble}, and this is {session.facts.distribution or session.facts.system};"
        " name other backends for this host: --backend, or mxc_backends in the inventory",
    )


def _elsewhere(name: str, seen: str) -> Probe:
    return Probe(f"{name}.platform", Health.FAILED, seen, "it was asked for", privilege=_CHOOSER)


def _as_told(probe: Probe, session: Session, request: Request) -> dict[str, str]:
    fix = of_probe(probe, session, request)
    return {**asdict(probe), "health": probe.health.value, "fix": fix}


def _by_doctor(session: Session, choices: Choices, unproven: Health) -> list[Probe]:
    made = _ask(session, remote_doctor.preparation())
    where = remote_doctor.place(made.stdout_lines)
    if where is None:
        return [remote_doctor.failure(last_words(made.stdout_lines + made.stderr_lines))]
    try:
        if not where.python:
            missing = remote_doctor.python_missing(where, session.facts.family)
            return [replace(missing, health=unproven)]
        return _visit(session, where, choices)
    finally:
        # Of a host that is lost, or that we are told to leave, nothing more can be asked.
        with suppress(Exception):
            _ask(session, remote_doctor.removal(where))


def _visit(session: Session, where: Place, choices: Choices) -> list[Probe]:
    sources = remote_doctor.sources()
    try:
        session.host.put_file(io.BytesIO(sources.packed), f"{where.folder}/{remote_doctor.ARCHIVE}")
    except (TimeoutError, ConnectionError):
        raise
    except OSError as error:
        return [remote_doctor.failure(str(error))]
    examination = remote_doctor.examination(where, sources.digest, choices.backends, choices.features)
    command = session.access.elevated(examination)
    deadline = remote_doctor.DEADLINE_S + _PATIENCE_S
    answer = _ask(session, command, session.access.stdin, deadline)
    probes = remote_doctor.probes(answer.stdout_lines)
    said = last_words(answer.stdout_lines + answer.stderr_lines)
    return [remote_doctor.failure(said)] if probes is None else probes


def _ask(
    session: Session, command: str, stdin: list[str] | None = None, deadline_s: int = _ANSWER_S
) -> CommandOutput:
    _, output = session.host.run_shell_command(StringCommand(command), _stdin=stdin, _timeout=deadline_s)
    return output


def _by_facts(session: Session, choices: Choices, unproven: Health) -> list[Probe]:
    wanted: dict[str, tuple[Item, str]] = {}
    probes: list[Probe] = []
    for name in choices.backends:
        one = replace(choices, backends=[name])
        needs = needs_of(one)
        trouble = unsupported(needs, session.facts)
        if trouble:
            probes.append(_elsewhere(name, f"{trouble.message}; {trouble.fix}"))
        for item in items_for(needs, session.facts, one):
            wanted.setdefault(item.identifier, (item, name))
    steps = plan_items(session, [item for item, _ in wanted.values()])
    backends = [name for _, name in wanted.values()]
    probes += [_decided(step, _preparing(name), unproven) for step, name in zip(steps, backends, strict=True)]
    if session.restart:
        why = "what was changed takes effect at the next start"
        probes.append(Probe("host.restart", Health.WARNING, session.restart, why, _RESTART, _PRIVILEGE))
    return probes


def _preparing(backend: str) -> str:
    return f"mxc-ops prep host --backend {backend} --yes"


def _of_users(session: Session, choices: Choices) -> list[Probe]:
    """Only the inventory knows the users, so what each of them needs is decided from facts."""
    needs = [need for need in needs_of(choices) if need.data.get("user") == EACH_USER]
    steps = plan_items(session, items_for(needs, session.facts, choices))
    return [_decided(step, preparing(step.identifier), Health.FAILED, "root") for step in steps]


def _decided(step: Step, fix: str, unproven: Health, privilege: str = _PRIVILEGE) -> Probe:
    decision = step.decision
    if decision.refusal:
        # What a person is told to do about it is more than a command.
        seen = "; ".join(filter(None, (decision.before, decision.refusal, decision.fix)))
        return Probe(step.identifier, Health.FAILED, seen, step.why, privilege=privilege)
    if step.changes or decision.before != decision.after:
        seen = f"{decision.before}; wanted: {decision.after}"
        return Probe(step.identifier, Health.FAILED, seen, step.why, fix, privilege)
    if decision.restart:
        return Probe(step.identifier, unproven, decision.before, step.why, _RESTART, privilege)
    return Probe(step.identifier, Health.OK, decision.before, step.why)
