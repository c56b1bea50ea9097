"""Inside the prep worker: connect, read facts, decide, apply what was approved, decide again.

pyinfra in API mode. The plan comes from our own decisions, so operations are declared only for what changes,
under our own item ids; pyinfra's are positions (libs: op identity in API mode).
"""

# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false
# pyinfra declares callbacks static and calls them on instances, and annotates contexts incompletely.

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import Any, TextIO

import gevent
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import OperationError, PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.operations import run_ops
from pyinfra.api.state import BaseStateCallback, State, StateStage
from pyinfra.context import ctx_config, ctx_host, ctx_state

from mxc_ops.prep.decisions import Decision
from mxc_ops.prep.facts.system import Elevation, OsRelease
from mxc_ops.prep.items import HostFacts, Item, distribution_family, items_for, needs_of, unsupported
from mxc_ops.prep.messages import Answer, Event, Message, Request
from mxc_ops.prep.operations import apparmor, files, helpers, ids, kernel, packages
from mxc_ops.prep.operations.common import Commands, latest_decision, read

OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "apparmor.profile": apparmor.profile,
    "files.root_directory": files.root_directory,
    "helpers.built": helpers.built,
    "ids.recorded_range": ids.recorded_range,
    "kernel.setting": kernel.setting,
    "packages.installed": packages.installed,
}
_LAST_LINES = 5


@dataclass
class _HostPlan:
    """What is known of one reachable host: its items, and those that would change."""

    facts: HostFacts
    items: tuple[Item, ...]
    changing: list[Item] = field(default_factory=list[Item])


def serve() -> int:
    """Do what one request on standard input asks for; events go to standard output."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints must not mix with the events
    request = Request.decode(sys.stdin.readline())
    _Preparation(request, events).run(lambda: Answer.decode(sys.stdin.readline()))
    return 0


class _Preparation:
    def __init__(self, request: Request, events: TextIO) -> None:
        self._request = request
        self._events = events
        self._plans: dict[str, _HostPlan] = {}
        inventory = Inventory((list(request.hosts), dict[str, Any]()))
        self._state = State(inventory, Config(), check_for_changes=False)
        self._reporter = _Reporter(self._emit)
        self._state.add_callback_handler(self._reporter)

    def run(self, ask: Callable[[], Answer]) -> None:
        with ctx_state.use(self._state):
            try:
                self._connect()
                self._on_each(self._state.inventory.get_active_hosts(), self._plan)
                self._emit(Event.ASK)
                self._apply([plan for name in ask().apply if (plan := self._plans.get(name))])
            finally:
                disconnect_all(self._state)
        self._emit(Event.FINISHED)

    def _emit(self, event: Event, host: str = "", **data: Any) -> None:
        self._events.write(Message(event, host, data).encode())

    def _connect(self) -> None:
        self._state.set_stage(StateStage.Connect)
        try:
            connect_all(self._state)
        except PyinfraError:
            return  # no host at all was reached; each was reported
        self._state.set_stage(StateStage.Prepare)

    def _on_each(self, hosts: Iterable[Host], work: Callable[[Host], None]) -> None:
        """Do the work for all hosts at once, each in a greenlet of its own."""

        def at(host: Host) -> None:
            with ctx_config.use(self._state.config.copy()), ctx_host.use(host):
                try:
                    work(host)
                except PyinfraError as error:
                    self._emit(Event.UNREACHABLE, host.name, message=f"reading it failed: {error}")

        gevent.joinall([self._state.pool.spawn(at, host) for host in hosts], raise_error=True)

    def _plan(self, host: Host) -> None:
        release = read(OsRelease)
        name = host.name
        facts = HostFacts(name, release.get("PRETTY_NAME", ""), distribution_family(release), read(Elevation))
        self._emit(Event.HOST, name, distribution=facts.distribution, elevation=facts.elevation)
        needs = needs_of(self._request.backends)
        trouble = unsupported(needs, facts)
        if trouble:
            self._emit(Event.UNSUPPORTED, name, message=trouble.message, fix=trouble.fix)
            return
        plan = self._plans[name] = _HostPlan(facts, items_for(needs, self._request.helpers, facts))
        for item in plan.items:
            decision = decide(item)
            if decision.commands:
                plan.changing.append(item)
                by_hand = f"sudo sh -c {quote(' && '.join(decision.commands))}"
                self._reporter.by_hand[name, item.identifier] = by_hand
            self._emit(
                Event.PLANNED,
                name,
                item=item.identifier,
                kind=item.kind,
                why=item.why,
                before=decision.before,
                after=decision.after,
                changes=bool(decision.commands),
                message=decision.refusal,
                fix=decision.fix,
            )

    def _apply(self, plans: Sequence[_HostPlan]) -> None:
        if not plans:
            return
        hosts = [self._state.inventory.get_host(plan.facts.name) for plan in plans]
        self._on_each(hosts, self._declare)
        self._state.set_stage(StateStage.Execute)
        try:
            run_ops(self._state)
        except PyinfraError:
            pass  # the last host failed; its items tell which and why
        finally:
            self._reporter.flush(self._state)
        self._on_each(hosts, self._check)

    def _declare(self, host: Host) -> None:
        plan = self._plans[host.name]
        for item in plan.changing:
            meta = OPERATIONS[item.operation](
                name=item.identifier, _sudo=plan.facts.elevation == "sudo", **item.arguments
            )
            self._reporter.items[host.name, meta._hash] = item.identifier  # pyright: ignore[reportPrivateUsage] - pyinfra offers no other name for it

    def _check(self, host: Host) -> None:
        for item in self._plans[host.name].changing:
            decision = decide(item)
            settled = not decision.commands and not decision.refusal
            self._emit(
                Event.CHECKED, host.name, item=item.identifier, settled=settled, before=decision.before
            )


class _Reporter(BaseStateCallback):
    """Tells each item's outcome once. pyinfra fixes the parameters of its callbacks, needed or not."""

    def __init__(self, emit: Callable[..., None]) -> None:
        self.items: dict[tuple[str, str], str] = {}
        self.by_hand: dict[tuple[str, str], str] = {}
        self._emit = emit
        self._told: set[tuple[str, str]] = set()

    def host_connect_error(self, state: State, host: Host, error: Exception) -> None:  # noqa: ARG002
        self._emit(Event.UNREACHABLE, host.name, message=str(error))

    def operation_host_start(self, state: State, host: Host, op_hash: str) -> None:  # noqa: ARG002
        self._emit(Event.STARTED, host.name, item=self.items[host.name, op_hash])

    def operation_end(self, state: State, op_hash: str) -> None:  # noqa: ARG002
        self.flush(state)

    def flush(self, state: State) -> None:
        """Also called at the end: pyinfra does not end an operation in which the last host failed."""
        for (name, op_hash), item in self.items.items():
            data = state.ops[state.inventory.get_host(name)].get(op_hash)
            if data is None or (name, op_hash) in self._told or not data.operation_meta.is_complete():
                continue
            self._told.add((name, op_hash))
            meta = data.operation_meta
            if meta.did_error():
                message = last_words(meta.stdout_lines + meta.stderr_lines)
                self._emit(Event.FAILED, name, item=item, message=message, fix=self.by_hand[name, item])
            else:
                self._emit(Event.CHANGED, name, item=item)


def last_words(lines: Sequence[str]) -> str:
    """The end of a command's output, on one line; progress that a terminal would overwrite is left out."""
    shown = [line.rpartition("\r")[2].strip() for line in (line.rstrip("\r\n") for line in lines)]
    return " | ".join([line for line in shown if line][-_LAST_LINES:])


def decide(item: Item) -> Decision:
    """What would be done about an item, at the host pyinfra is at: its operation up to the first command."""
    undecorated: Callable[..., Commands] = OPERATIONS[item.operation].__wrapped__  # type: ignore[attr-defined]
    commands = undecorated(**item.arguments)
    try:
        next(commands, None)
    except OperationError as error:
        if not latest_decision().refusal:
            raise PyinfraError(str(error)) from error
    finally:
        commands.close()
    return latest_decision()
